"""DiffAugment (Zhao et al. 2020), as data-efficient-gans has it: color, translation and cutout of every image.

Each operation is a function of images [N, C, H, W] and of numbers that stand for its draws.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from spider.draws import Address
from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.config import DiffAugmentConfig


class DiffAugment(Augmentation):
    """See Augmentation."""

    def __init__(self, config: DiffAugmentConfig) -> None:
        self.config = config

    def __call__(self, images: Tensor, draws: Address, use: str) -> Tensor:
        """See Augmentation."""
        drawn = draws.uniform(f"{use}.diffaugment", (7,)).unbind(1)  # each [N]
        for policy in self.config.policy:
            match policy:
                case "color":
                    images = contrast(saturation(brightness(images, drawn[0]), drawn[1]), drawn[2])
                case "translation":
                    rows, columns = (
                        _whole(u, 2 * reach + 1) - reach
                        for u, reach in zip(drawn[3:5], _sides(images, self.config.translation), strict=True)
                    )
                    images = translate(images, rows, columns)
                case "cutout":
                    hole = _sides(images, self.config.cutout)
                    places = zip(drawn[5:7], images.shape[2:], hole, strict=True)
                    rows, columns = (_whole(u, side + 1 - size % 2) for u, side, size in places)
                    images = cutout(images, rows, columns, hole)
        return images


def brightness(images: Tensor, u: Tensor) -> Tensor:
    """Add u - 1/2. u: [N], in [0, 1), as below."""
    return images + (_each(u, images) - 0.5)


def saturation(images: Tensor, u: Tensor) -> Tensor:
    """Multiply the deviations from each pixel's mean over channels by 2 u."""
    mean = images.mean(dim=1, keepdim=True)
    return (images - mean) * (2 * _each(u, images)) + mean


def contrast(images: Tensor, u: Tensor) -> Tensor:
    """Multiply the deviations from each image's mean by u + 1/2."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_each(u, images) + 0.5) + mean


def translate(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Shift: pixel (i, j) becomes what stood at (i + rows, j + columns), or 0 outside. Shifts: int64 [N]."""
    count, _, height, width = images.shape
    padded = pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # a border of zeros, for whatever lies outside
    i = _shifted(height, rows).view(count, height, 1)
    j = _shifted(width, columns).view(count, 1, width)
    number = torch.arange(count, device=images.device).view(count, 1, 1)
    return padded[number, i, j].permute(0, 3, 1, 2).contiguous()


def cutout(images: Tensor, rows: Tensor, columns: Tensor, hole: tuple[int, int]) -> Tensor:
    """Set a hole to 0. It is centred at (rows, columns), int64 [N], and its coordinates are clamped to the image.

    So near a border it is smaller, and never empty, unless the hole has no pixel at all: then nothing is set.
    """
    if 0 in hole:
        return images
    height, width = images.shape[2:]
    inside_rows = _inside(height, rows, hole[0]).unsqueeze(2)  # [N, H, 1]
    inside_columns = _inside(width, columns, hole[1]).unsqueeze(1)  # [N, 1, W]
    return images * (~(inside_rows & inside_columns)).unsqueeze(1).to(images.dtype)


def _sides(images: Tensor, part: float) -> tuple[int, int]:
    """A part of the height and of the width, in whole pixels."""
    height, width = images.shape[2:]
    return int(height * part + 0.5), int(width * part + 0.5)


def _whole(u: Tensor, stop: int) -> Tensor:
    """Uniform numbers in [0, 1) to whole ones from 0 to stop - 1."""
    return (u * stop).long()


def _each(u: Tensor, images: Tensor) -> Tensor:
    return u.to(images.dtype).view(-1, 1, 1, 1)


def _shifted(side: int, shift: Tensor) -> Tensor:
    """Where the pixels of an axis come from, in an image that has a border of one pixel. [N, side]."""
    return (torch.arange(side, device=shift.device) + 1 + shift.unsqueeze(1)).clamp_(0, side + 1)


def _inside(side: int, centre: Tensor, size: int) -> Tensor:
    """Which pixels of an axis the hole covers. bool [N, side]."""
    first = (centre - size // 2).unsqueeze(1)
    pixel = torch.arange(side, device=centre.device)
    return (pixel >= first.clamp(0, side - 1)) & (pixel <= (first + size - 1).clamp(0, side - 1))
