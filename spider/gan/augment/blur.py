"""A blur that fades: D sees coarse shapes first (StyleGAN3's configuration R, Karras et al. 2021, appendix F).

The filter is that of the public implementation (NVlabs/stylegan3, training/loss.py): taps from -floor(3 sigma) to
floor(3 sigma) that weigh 2^-(i / sigma)^2, and zeros outside of the image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from spider.draws import Address
from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.config import BlurConfig
from spider.gan.method import Sums
from spider.settings.schedule import value_at


class Blur(Augmentation):
    """See Augmentation. It draws nothing: real and generated images are blurred alike."""

    def __init__(self, config: BlurConfig) -> None:
        self.schedule = config.sigma
        self.sigma = value_at(config.sigma, 0)

    def __call__(self, images: Tensor, draws: Address, use: str) -> Tensor:
        """See Augmentation."""
        return blurred(images, self.sigma)

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method."""
        self.sigma = value_at(self.schedule, images)

    def state(self) -> dict[str, Any]:
        """See Method."""
        return {"sigma": self.sigma}

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        self.sigma = state["sigma"]

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        return {"augment/blur_sigma": self.sigma}


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images [N, C, H, W] blurred by `sigma` pixels; below a third of a pixel they stay as they are."""
    reach = math.floor(3 * sigma)
    if reach < 1:
        return images
    weights = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype).div(sigma).square().neg().exp2()
    row = (weights / weights.sum()).view(1, 1, 1, -1)
    planes = images.flatten(0, 1)[:, None]  # [N C, 1, H, W]
    planes = conv2d(conv2d(planes, row, padding=(0, reach)), row.mT, padding=(reach, 0))
    return planes.view(images.shape)
