"""From settings to augmentations."""

from __future__ import annotations

from collections.abc import Sequence

from spider.augment.ada import Ada
from spider.augment.augmentation import Augmentation
from spider.augment.config import AdaConfig, AugmentationConfig
from spider.augment.diffaugment import DiffAugment


def build_augmentations(
    configs: Sequence[AugmentationConfig], batch: int, image_shape: tuple[int, int, int]
) -> tuple[Augmentation, ...]:
    """The augmentations that the settings name, in order.

    Args:
        batch: images of an iteration, over all ranks.
        image_shape: (C, H, W).

    Raises:
        SpiderUsageError: one cannot work on images of this shape.
    """
    return tuple(
        Ada(config, batch, image_shape) if isinstance(config, AdaConfig) else DiffAugment(config) for config in configs
    )
