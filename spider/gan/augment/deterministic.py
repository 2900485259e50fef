"""Reflection and sampling whose derivatives are sums in an order that is always the same.

torch's own add up on a GPU in the order in which threads come, so `compute.deterministic` refuses them there. Then
these take their place: the same numbers but for rounding, by more memory traffic.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def needed(images: Tensor) -> bool:
    """Whether torch would refuse its own derivatives for such images."""
    return images.is_cuda and torch.are_deterministic_algorithms_enabled()


def reflect(images: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pad images [N, C, H, W] with their reflection, which has no more pixels than the image but one."""
    if not needed(images):
        return pad(images, (left, right, top, bottom), mode="reflect")
    height, width = images.shape[2:]
    rows = _reflection(height, top, bottom, images.device)
    return images.index_select(2, rows).index_select(3, _reflection(width, left, right, images.device))


def spread(values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
    """The adjoint of `torch.nn.functional.grid_sample` (bilinear, zeros outside, align_corners=False).

    Args:
        values: of the samples, [N, C, h, w].
        grid: where they were taken, (x, y) from -1 to 1, [N, h, w, 2].
        shape: of the images that were sampled, [N, C, H, W].

    Returns:
        Images of that shape: each value goes to the four pixels that its sample was made of, by their weights.
    """
    count, channels, height, width = shape
    x, y = (((grid[..., axis] + 1) * side - 1) / 2 for axis, side in enumerate((width, height)))  # [N, h, w], in pixels
    left, top = x.floor(), y.floor()
    number = torch.arange(count, device=values.device).view(-1, 1, 1)
    values = values.permute(0, 2, 3, 1)  # [N, h, w, C]
    images = values.new_zeros(count, height, width, channels)
    for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
        for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (row_weight * column_weight * inside).unsqueeze(3)
            # What lies outside adds zeros at the border: all at one pixel would be added one after the other
            place = number, row.long().clamp(0, height - 1), column.long().clamp(0, width - 1)
            images.index_put_(place, values * weight, accumulate=True)
    return images.permute(0, 3, 1, 2)


def _reflection(side: int, before: int, after: int, device: torch.device) -> Tensor:
    """Which pixel of an axis each pixel of the padded one is."""
    place = torch.arange(-before, side + after, device=device)
    last = side - 1
    return last - (last - place.abs()).abs()
