"""From settings to sources, and from finished runs to frozen generators: each may hold the other, to any depth."""

from __future__ import annotations

from pathlib import Path

import torch

from cluster.checkpoint import CheckpointStore
from cluster.world import World
from shards.errors import ShardsUsageError
from spider.data import absolute
from spider.errors import SpiderError, SpiderUsageError
from spider.frozen import FrozenGenerator
from spider.networks.build import build_generator
from spider.run import resolve
from spider.sources.cauchy import Cauchy
from spider.sources.config import (
    CauchyConfig,
    GammaConfig,
    GaussianConfig,
    GeneratorConfig,
    GmmConfig,
    ImagesConfig,
    SourceConfig,
)
from spider.sources.gamma import Gamma
from spider.sources.gaussian import Gaussian
from spider.sources.generator import Generator
from spider.sources.gmm import Gmm
from spider.sources.images import Images
from spider.sources.nonparametric import Nonparametric
from spider.sources.source import Source


def build_source(
    config: SourceConfig,
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
        case _:
            return Nonparametric(config)


def open_generator(
    run: str, device: torch.device, dtype: torch.dtype = torch.float32, *, moved_to: str | Path | None = None
) -> FrozenGenerator:
    """The averaged generator of RUN, RUN@best, RUN@last or RUN@KIMG, with its source; it computes in `dtype` or finer.

    Args:
        moved_to: where the images, or the run, that feed it lie now; None: where the run says.

    Raises:
        SpiderUsageError: there is no such run or checkpoint; its source is not there; `moved_to` for a prior.
        SpiderError: the source is another one than the run was fed.
        ClusterError: the checkpoint is damaged.
    """
    ref = resolve(run)
    config = ref.directory.config()
    if moved_to is not None:
        config = config.model_copy(update={"source": _moved(run, config.source, moved_to)})
    snapshot = CheckpointStore(ref.directory.checkpoints, World.single(device)).load(ref.checkpoint)
    channels, height, width = snapshot.state["image_shape"]
    shape = (channels, height, width)
    weights = snapshot.tensors["generator_ema"]
    stored = next(iter(weights.values())).dtype
    dtype = torch.promote_types(stored, dtype)
    try:
        source = build_source(config.source, shape, device, dtype)
    except (ShardsUsageError, SpiderUsageError) as error:
        raise SpiderUsageError(f"{run}: its source: {error}; --source says where it lies now") from None
    if source.identity != snapshot.state["inputs"]["source"]:
        raise SpiderError(
            f"{run}: the run was fed {snapshot.state['inputs']['source']}, and its source now is {source.identity}"
        )
    module = build_generator(config.generator, source, shape, World.single(device), config.seed)
    module.to(stored).load_state_dict(weights)
    generator = FrozenGenerator(module, source, shape, device, training=snapshot.state["inputs"]["data"])
    module.to(dtype)  # after the digest, which is that of the weights as they were saved
    return generator


def _moved(run: str, source: SourceConfig, place: str | Path) -> SourceConfig:
    """The same source at another place."""
    match source:
        case ImagesConfig():
            return source.model_copy(update={"path": absolute(place)})
        case GeneratorConfig():
            return source.model_copy(update={"run": str(place)})
        case _:
            raise SpiderUsageError(f"--source {place}: {run} is fed by kind={source.kind}, which lies nowhere")
