"""From settings to sources."""

from __future__ import annotations

from collections.abc import Callable

import torch

from spider.gan.sources.cauchy import Cauchy
from spider.gan.sources.config import (
    CauchyConfig,
    GammaConfig,
    GaussianConfig,
    GeneratorConfig,
    GmmConfig,
    ImagesConfig,
    NonparametricConfig,
    SourceChoice,
)
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.gamma import Gamma
from spider.gan.sources.gaussian import Gaussian
from spider.gan.sources.generator import Generator
from spider.gan.sources.gmm import Gmm
from spider.gan.sources.images import Images
from spider.gan.sources.nonparametric import Nonparametric
from spider.gan.sources.source import Source

OpenRun = Callable[[str, torch.device, torch.dtype], FrozenGenerator]


def build_source(
    config: SourceChoice,
    target_shape: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
    open_run: OpenRun,
) -> Source:
    """The source that the settings name, for a target of (C, H, W); networks in it compute in `dtype` or finer.

    Args:
        open_run: opens the finished run that a source may name: a source knows no folders of runs.
    """
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
            return Generator(config, open_run(config.run, device, dtype), target_shape)
        case NonparametricConfig():
            return Nonparametric(config)
        case _:
            return config.build(target_shape, device, dtype)
