"""From settings to networks. Weights are a function of (seed, role), and no generator outside is touched."""

from __future__ import annotations

import torch
from torch import nn

from cluster.world import World
from spider import draws
from spider.errors import SpiderUsageError
from spider.gan.networks.biggan import BigganGenerator
from spider.gan.networks.biggan_config import BigganDiscriminatorConfig, BigganGeneratorConfig
from spider.gan.networks.biggan_discriminator import BigganDiscriminator
from spider.gan.networks.config import NetworkChoice
from spider.gan.networks.dcgan import DcganDiscriminator, DcganGenerator, SpectralDcganDiscriminator
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig
from spider.gan.networks.fastgan import FastganGenerator
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig, FastganGeneratorConfig
from spider.gan.networks.fastgan_discriminator import FastganDiscriminator
from spider.gan.networks.mlp import MlpDiscriminator, MlpGenerator
from spider.gan.networks.mlp_config import MlpConfig, PolyDiscriminatorConfig
from spider.gan.networks.poly import PolyDiscriminator
from spider.gan.networks.projected import ProjectedDiscriminator
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.r3gan import R3ganDiscriminator, R3ganGenerator
from spider.gan.networks.r3gan_config import R3ganConfig
from spider.gan.networks.slicing import Sliceable
from spider.gan.networks.stylegan2 import Stylegan2Discriminator, Stylegan2Generator
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import (
    Stylegan2DiscriminatorConfig,
    Stylegan2GeneratorConfig,
)
from spider.gan.outputs import UNCONDITIONAL, ConditionShape
from spider.gan.sources.source import Source


def build_generator(
    config: NetworkChoice,
    source: Source,
    image_shape: tuple[int, int, int],
    world: World,
    seed: int,
    told: ConditionShape = UNCONDITIONAL,
) -> nn.Module:
    """A generator fed by `source` and `told` a condition; (source [N, *source.shape], Condition) -> GOut."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draws.torch_seed(seed, "init.generator"))
        frontend = source.frontend()
        shape = source.shape if frontend is None else frontend.shape
        if len(shape) > 1 and not config.takes_images:
            raise SpiderUsageError(
                f"generator.kind={config.kind} takes vectors, and its source gives images {list(shape)}: "
                "source.adapter makes vectors of images"
            )
        if isinstance(config, R3ganConfig):
            return R3ganGenerator(config, shape, image_shape, told, frontend)
        if isinstance(config, Stylegan2GeneratorConfig):
            return Stylegan2Generator(config, shape, image_shape, told, frontend)
        if isinstance(config, Stylegan3GeneratorConfig):
            return Stylegan3Generator(config, shape, image_shape, told, frontend)
        if isinstance(config, FastganGeneratorConfig):
            return FastganGenerator(config, shape, image_shape, told, world, frontend)
        if isinstance(config, BigganGeneratorConfig):
            return BigganGenerator(config, shape, image_shape, told, world, frontend)
        if isinstance(config, MlpConfig):
            return MlpGenerator(config, shape, image_shape, told, frontend)
        if isinstance(config, DcganGeneratorConfig):
            return DcganGenerator(config, shape, image_shape, told, world, frontend)
        made = _module(config.build_generator(shape, image_shape, told, world, frontend), "generator", config)
        if frontend is not None and getattr(made, "frontend", None) is not frontend:
            raise SpiderUsageError(
                f"generator.kind={config.kind} does not keep `frontend`, which its source needs to train"
            )
        return made


def build_discriminator(
    config: NetworkChoice,
    image_shape: tuple[int, int, int],
    world: World,
    seed: int,
    told: ConditionShape = UNCONDITIONAL,
    *,
    sliced: bool = False,
) -> nn.Module:
    """A discriminator that is `told` a condition; (images [N, C, H, W], Condition) -> DOut.

    `sliced`: see `spider.gan.networks.slicing`.
    """
    discriminator = _discriminator(config, image_shape, world, seed, told)
    if sliced:
        if not isinstance(discriminator, Sliceable):
            raise SpiderUsageError(
                f"objective.slicing=true needs a discriminator that can be sliced, and {type(discriminator).__name__} "
                f"of discriminator.kind={config.kind} is no spider.gan.networks.slicing.Sliceable"
            )
        discriminator.slice()
    return discriminator


def _discriminator(
    config: NetworkChoice, image_shape: tuple[int, int, int], world: World, seed: int, told: ConditionShape
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draws.torch_seed(seed, "init.discriminator"))
        if isinstance(config, R3ganConfig):
            return R3ganDiscriminator(config, image_shape, told)
        if isinstance(config, Stylegan2DiscriminatorConfig):
            return Stylegan2Discriminator(config, image_shape, told, world)
        if isinstance(config, FastganDiscriminatorConfig):
            return FastganDiscriminator(config, image_shape, world)
        if isinstance(config, ProjectedDiscriminatorConfig):
            return ProjectedDiscriminator(config, image_shape, told, world)
        if isinstance(config, BigganDiscriminatorConfig):
            return BigganDiscriminator(config, image_shape, told)
        if isinstance(config, MlpConfig):
            return MlpDiscriminator(config, image_shape, told)
        if isinstance(config, PolyDiscriminatorConfig):
            return PolyDiscriminator(config, image_shape)
        if isinstance(config, DcganDiscriminatorConfig):
            made = SpectralDcganDiscriminator if config.norm == "spectral" else DcganDiscriminator
            return made(config, image_shape, told, world)
        return _module(config.build_discriminator(image_shape, told, world), "discriminator", config)


def _module(made: object, role: str, config: NetworkChoice) -> nn.Module:
    """What a class from outside has built."""
    if not isinstance(made, nn.Module):
        raise SpiderUsageError(
            f"{role}.kind={config.kind}: build_{role} returned {type(made).__name__}, and not a torch.nn.Module"
        )
    return made
