"""3x3 convolutions beside a change of size by 2, as one convolution: the same numbers for 16 products in place of 36.

    double, then 3x3     a transposed convolution of stride 2, whose kernel is 4x4
    3x3, then halve      a convolution of stride 2, whose kernel is 4x4

Each pixel is doubled to 2 x 2 equal ones, or 2 x 2 are averaged. The kernel is the sum of the 3x3 one at four places.
Where maps are small the kernel costs more than it saves, so there the two are done apart.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, pad

_LEAST = (
    64  # pixels of the smaller map; on a CPU, 8 images of 128 to 512 channels: 0.4 to 0.8 of the time from there on
)


def convolve_doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[N, c, h, w], [C, c, 3, 3] -> [N, C, 2 h, 2 w]."""
    if x.shape[2] * x.shape[3] < _LEAST:
        return conv2d(interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    return conv_transpose2d(x, _at_four_places(weight.transpose(0, 1), flipped=True), bias, stride=2, padding=1)


def convolve_halved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[N, c, 2 h, 2 w], [C, c, 3, 3] -> [N, C, h, w]."""
    if x.shape[2] * x.shape[3] < 4 * _LEAST:
        return avg_pool2d(conv2d(x, weight, bias, padding=1), 2)
    return conv2d(x, _at_four_places(weight) / 4, bias, stride=2, padding=1)


def _at_four_places(weight: Tensor, *, flipped: bool = False) -> Tensor:
    """[C, c, 3, 3] -> [C, c, 4, 4], as a product, which passes over a large kernel once."""
    return (weight.flatten(2) @ _places(weight.dtype, weight.device, flipped)).view(*weight.shape[:2], 4, 4)


@cache
def _places(dtype: torch.dtype, device: torch.device, flipped: bool) -> Tensor:
    """[9, 16]: 1 where a number of the smaller kernel is added to one of the larger."""
    one = torch.eye(9, dtype=dtype).view(9, 3, 3)
    four = pad(one, (1, 0, 1, 0)) + pad(one, (0, 1, 1, 0)) + pad(one, (1, 0, 0, 1)) + pad(one, (0, 1, 0, 1))
    return (four.flip(1, 2) if flipped else four).flatten(1).to(device)
