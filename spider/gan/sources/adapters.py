"""From images to the vectors that some generators take: the first step of such a generator, which is saved with it.

    luma-16x32    mean over the channels, resized to 16 rows of 32 pixels, row by row: 512 numbers
    luma-23x23    mean over the channels, resized to 23 x 23, row by row: the first 512 of 529 numbers
    projection    the whole image, of at most 32 x 32 pixels, by a linear layer that trains with the generator: 512

The first two are the "old" and the "new" transform of the published cascades (DarthSid95/SpiderStyleGAN,
training/loss.py), made for images of 32 px. They are bilinear without a wider filter (antialias=False), so that of much
larger images they miss pixels between the samples. No image depends on the others of its batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear

from spider.gan.sources.config import Adapter
from spider.gan.sources.source import Frontend

DIM = 512  # of every adapter's vectors, as many as StyleGAN's mapping network takes
_LARGEST = 32  # px; sides that the projection looks at


def build_adapter(name: Adapter, shape: tuple[int, int, int]) -> Frontend:
    """The adapter of that name for images of (C, H, W)."""
    if name == "projection":
        return Projection(shape)
    return Luma(shape, (16, 32) if name == "luma-16x32" else (23, 23))


class Luma(Frontend):
    """[N, C, H, W] -> [N, 512]: grey pixels of a small image, from the top left on."""

    above: Tensor
    below: Tensor
    down: Tensor
    left: Tensor
    right: Tensor
    across: Tensor

    def __init__(self, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (DIM,)
        names = (("above", "below", "down"), ("left", "right", "across"))
        for axis, found, wanted in zip(names, shape[1:], size, strict=True):
            for name, values in zip(axis, _samples(found, wanted), strict=True):
                self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        grey = images.mean(dim=1)  # [N, H, W]
        rows = torch.lerp(grey[:, self.above], grey[:, self.below], self.down[:, None])  # [N, h, W]
        return torch.lerp(rows[..., self.left], rows[..., self.right], self.across).flatten(1)[:, :DIM]


class Projection(Frontend):
    """[N, C, H, W] -> [N, 512] by a linear layer, of images that are averaged down to 32 px where they are larger.

    Its learning rate is equalised: weights begin as N(0, 1) and are multiplied by 1 / sqrt(inputs), biases begin at 0.
    So the numbers begin with the mean square of the pixels as their variance.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = (DIM,)
        height, width = (min(side, _LARGEST) for side in shape[1:])
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", _averaged(shape[1], height), persistent=False)
        self.register_buffer("columns", _averaged(shape[2], width).T.contiguous(), persistent=False)
        self.weight = nn.Parameter(torch.randn(DIM, shape[0] * height * width))
        self.bias = nn.Parameter(torch.zeros(DIM))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        small = self.rows @ images @ self.columns  # by products, which are differentiable as often as asked for
        return linear(small.flatten(1), self.weight / math.sqrt(self.weight.shape[1]), self.bias)


def _samples(found: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where a bilinear resize of a side reads, [wanted] each: the pixels before and after, and how far between."""
    places = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * (found / wanted) - 0.5).clamp(0, found - 1)
    first = places.floor()
    return first.long(), (first + 1).clamp_max(found - 1).long(), (places - first).float()


def _averaged(found: int, wanted: int) -> Tensor:
    """Weights [wanted, found] of an antialiased resize of a side."""
    each = torch.eye(found)[None, None]
    return each[0, 0] if wanted == found else interpolate(each, (wanted, found), mode="bilinear", antialias=True)[0, 0]
