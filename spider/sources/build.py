"""From settings to sources, and from finished runs to frozen generators: each may hold the other, to any depth."""

from __future__ import annotations

import torch

from cluster.checkpoint import CheckpointStore
from cluster.world import World
from spider.conditions.build import restored_conditions
from spider.errors import SpiderError, SpiderUsageError
from spider.frozen import FrozenGenerator
from spider.inputs import at_key, find_source, note_places
from spider.networks.build import build_generator
from spider.run import require_format, resolve
from spider.sources.cauchy import Cauchy
from spider.sources.config import (
    CauchyConfig,
    GammaConfig,
    GaussianConfig,
    GeneratorConfig,
    GmmConfig,
    ImagesConfig,
    NonparametricConfig,
    SourceChoice,
)
from spider.sources.gamma import Gamma
from spider.sources.gaussian import Gaussian
from spider.sources.generator import Generator
from spider.sources.gmm import Gmm
from spider.sources.images import Images
from spider.sources.nonparametric import Nonparametric
from spider.sources.source import Source
from spider.train.restore import fitting, require_tensors


def build_source(
    config: SourceChoice,
    target_shape: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Source:
    """The source that the settings name, for a target of (C, H, W); networks in it compute in `dtype` or finer."""
    match config:
        case GaussianConfig():
            return Gaussian(config)
        case GammaConfig():
            return Gamma(config)
        case CauchyConfig():
            return Cauchy(config)
        case GmmConfig():
            return Gmm(config)
        case ImagesConfig():
            return Images(config, target_shape, device)
        case GeneratorConfig():
            return Generator(config, open_generator(config.run, device, dtype), target_shape)
        case NonparametricConfig():
            return Nonparametric(config)
        case _:
            return config.build(target_shape, device, dtype)


def open_generator(
    run: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    source_place: str | None = None,
    world: World | None = None,
    progress: bool = False,
) -> FrozenGenerator:
    """The averaged generator of RUN, RUN@best, RUN@last or RUN@KIMG, with its source; it computes in `dtype` or finer.

    Args:
        source_place: where the images or the run that feed it lie now; None: where the run says. The run notes it.
        world: ranks that all call this; None: this process is alone, or looks for itself.
        progress: show a bar while images are packed.

    Raises:
        SpiderUsageError: no such run, checkpoint or source; another source than the run was fed.
        SpiderError: what lies in the source's place now is not what it was.
        ClusterError: the checkpoint is damaged.
    """
    ref = resolve(run)
    with at_key(str(ref.directory.path)):
        config, named, inputs = find_source(ref.directory, source_place, world, progress)
    snapshot = CheckpointStore(ref.directory.checkpoints, World.single(device)).load(ref.checkpoint)
    require_format(snapshot.state, run)
    with fitting(f"checkpoint {ref.path} does not fit its run"):
        channels, height, width = map(int, snapshot.state["image_shape"])
        shape = (channels, height, width)
        weights = snapshot.tensors["generator_ema"]
        [stored] = {weight.dtype for weight in weights.values() if weight.is_floating_point()}
        conditions = restored_conditions(config.condition, snapshot.state.get("condition"))
        fed, trained_on = (str(snapshot.state["inputs"][what]) for what in ("source", "data"))
    dtype = torch.promote_types(stored, dtype)
    source = build_source(config.source, shape, device, dtype)
    if source.identity != fed:
        raise (SpiderError if source_place is None else SpiderUsageError)(
            f"{run}: the run was fed {fed}, and its source now is {source.identity}"
        )
    module = build_generator(config.generator, source, shape, World.single(device), config.seed, conditions.shape)
    with fitting(f"checkpoint {ref.path} does not fit its run"):
        require_tensors(weights, module.to(stored).state_dict(), "generator_ema")
    module.load_state_dict(weights)
    generator = FrozenGenerator(module, source, conditions, shape, device, training=trained_on)
    if source_place is not None and (world is None or world.is_main):
        note_places(ref.directory, named, inputs)
    module.to(dtype)  # after the digest, which is that of the weights as they were saved
    return generator
