"""Resampling of images by a small separable filter: blur, half the size, twice the size.

The filter acts on every channel alike, as a convolution in groups of one channel. The derivative of each operation is
the other one of a pair, so that derivatives of any order cost what the operation does. torch's own second derivative of
such a convolution costs more (4 images, a blur, forward and twice backward, one CPU core, float32: 512 channels of
16 px 61 ms, and 14 ms with these; 256 channels of 64 px 156 ms and 71 ms).

`blur`, `halve` and `double` have filters of an even number of taps, [1, 3, 3, 1] in StyleGAN2 and R3GAN; `gather` and
`spread` take any. Pixels outside of an image are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import conv2d, conv_transpose2d

Pair = tuple[int, int]  # of rows, and of columns

STYLEGAN2_TAPS = (1.0, 3.0, 3.0, 1.0)


def resampling_kernel(taps: Sequence[float] = STYLEGAN2_TAPS) -> Tensor:
    """The outer product of `taps` with itself, of sum 1, [1, 1, k, k].

    A network holds it as a buffer: a copy from the host would be waited for.
    """
    row = torch.tensor(taps)
    return (row.outer(row) / row.sum().square())[None, None]


def blur(x: Tensor, kernel: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2 padding - k + 1, W + ...], times `gain`."""
    return gather(x, kernel * gain, padding=(padding, padding))


def halve(x: Tensor, kernel: Tensor) -> Tensor:
    """[N, C, 2 h, 2 w] -> [N, C, h, w]: every second pixel of the blurred image."""
    padding = kernel.shape[-1] // 2 - 1
    return gather(x, kernel, (2, 2), (padding, padding))


def double(x: Tensor, kernel: Tensor) -> Tensor:
    """[N, C, h, w] -> [N, C, 2 h, 2 w]: pixels four times as bright, with zeros between them, are blurred."""
    padding = kernel.shape[-1] // 2 - 1
    return spread(x, kernel * 4, (2, 2), (padding, padding), (2 * x.shape[2], 2 * x.shape[3]))


def gather(x: Tensor, kernel: Tensor, stride: Pair = (1, 1), padding: Pair = (0, 0)) -> Tensor:
    """y[i] = sum over k of kernel[k] x[stride i + k - padding], in two dimensions, in each channel of [N, C, H, W]."""
    gathered: Tensor = _Gather.apply(x, kernel, stride, padding)
    return gathered


def spread(y: Tensor, kernel: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
    """The transpose of `gather`: x[stride i + k - padding] = sum over (i, k) of kernel[k] y[i], x of that `size`."""
    result: Tensor = _Spread.apply(y, kernel, stride, padding, size)
    return result


class _Gather(Function):
    """See `gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, stride: Pair, padding: Pair) -> Tensor:
        """See the class."""
        ctx.save_for_backward(kernel)
        ctx.how = (stride, padding, tuple(x.shape[2:]))
        weight = kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """By x."""
        (kernel,) = ctx.saved_tensors
        return _Spread.apply(gradient, kernel, *ctx.how), None, None, None


class _Spread(Function):
    """See `spread`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, kernel: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
        """See the class."""
        ctx.save_for_backward(kernel)
        ctx.how = (stride, padding)
        least = [stride[i] * (y.shape[2 + i] - 1) + kernel.shape[2 + i] - 2 * padding[i] for i in range(2)]
        left = [side - made for side, made in zip(size, least, strict=True)]  # rows and columns that no y reaches
        weight = kernel.to(y.dtype).expand(y.shape[1], -1, -1, -1)
        return conv_transpose2d(y, weight, None, stride, padding, left, groups=y.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """By y."""
        (kernel,) = ctx.saved_tensors
        return _Gather.apply(gradient, kernel, *ctx.how), None, None, None, None
