"""From settings to augmentations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from spider.gan.augment.ada import Ada
from spider.gan.augment.apa import Apa
from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.blur import Blur
from spider.gan.augment.config import (
    AdaConfig,
    ApaConfig,
    AugmentationChoice,
    BlurConfig,
    DiffAugmentConfig,
    DiffusionConfig,
    MirrorConfig,
)
from spider.gan.augment.diffaugment import DiffAugment
from spider.gan.augment.diffusion import Diffusion
from spider.gan.augment.mirror import Mirror


def build_augmentations(
    configs: Sequence[AugmentationChoice],
    batch: int,
    image_shape: tuple[int, int, int],
    discriminator: nn.Module,
) -> tuple[Augmentation, ...]:
    """The augmentations that the settings name, in order.

    Args:
        batch: images of an iteration, over all ranks.
        image_shape: (C, H, W).
        discriminator: of the run, which may ask for images in other sizes too (`spider.gan.sizes`).

    Raises:
        SpiderUsageError: one cannot work on images of this shape, or of such a size.
    """
    sizes: Mapping[str, tuple[int, int]] = getattr(discriminator, "sizes", {})
    diffusion = next((config for config in configs if isinstance(config, DiffusionConfig)), None)
    return tuple(_build(config, batch, image_shape, sizes.values(), diffusion) for config in configs)


def _build(
    config: AugmentationChoice,
    batch: int,
    image_shape: tuple[int, int, int],
    sizes: Iterable[tuple[int, int]],
    diffusion: DiffusionConfig | None,
) -> Augmentation:
    match config:
        case AdaConfig():
            return Ada(config, batch, image_shape, sizes, diffusion)
        case ApaConfig():
            return Apa(config, batch)
        case MirrorConfig():
            return Mirror()
        case BlurConfig():
            return Blur(config)
        case DiffusionConfig():
            return Diffusion(config, batch)
        case DiffAugmentConfig():
            return DiffAugment(config)
        case _:
            return config.build(batch, image_shape)
