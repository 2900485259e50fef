"""From settings to networks. Weights are a function of (seed, role), and no generator outside is touched."""

from __future__ import annotations

import torch
from torch import nn

from cluster.world import World
from spider import draws
from spider.networks.config import DiscriminatorNetworkConfig, GeneratorNetworkConfig
from spider.networks.dcgan import DcganDiscriminator, DcganGenerator
from spider.sources.source import Source


def build_generator(
    config: GeneratorNetworkConfig, source: Source, image_shape: tuple[int, int, int], world: World, seed: int
) -> nn.Module:
    """A generator fed by `source`; (source [N, *source.shape], Condition) -> GOut."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draws.torch_seed(seed, "init.generator"))
        frontend = source.frontend()
        shape = source.shape if frontend is None else frontend.shape
        return DcganGenerator(config, shape, image_shape, world, frontend)


def build_discriminator(
    config: DiscriminatorNetworkConfig, image_shape: tuple[int, int, int], world: World, seed: int
) -> nn.Module:
    """A discriminator; (images [N, C, H, W], Condition) -> DOut."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draws.torch_seed(seed, "init.discriminator"))
        return DcganDiscriminator(config, image_shape, world)
