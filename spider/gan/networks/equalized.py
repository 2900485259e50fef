"""Layers with equalised learning rates (Karras et al. 2018), as StyleGAN2 has them (Karras et al. 2020, appendix B).

Weights are stored as standard normal numbers and multiplied by 1 / sqrt(inputs of one output) when they are used, so
that Adam's steps change all layers alike. Activations are sqrt(2) times a leaky ReLU of slope 0.2, and clamped where a
layer is told to. Weights, initial values and results are those of the public implementation (NVlabs/stylegan2-ada).

A leaky ReLU commutes with positive factors, so its gain is multiplied into weights and biases, which are small.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, linear

from spider.gan.networks.resample import blur, double, halve, resampling_kernel
from spider.precision import in_float16, without_autocast

SLOPE = 0.2
GAIN = math.sqrt(2)  # keeps the power of what goes through a leaky ReLU


def activated(x: Tensor, clamp: float | None = None) -> Tensor:
    """The leaky ReLU of x, which has its gain already, within [-clamp, clamp]."""
    y = leaky_relu(x, SLOPE)
    return y if clamp is None else y.clamp(-clamp, clamp)


class EqualLinear(nn.Module):
    """[N, inputs] -> [N, outputs], activated or not.

    Args:
        lr_multiplier: weights and biases learn so many times as fast: the stored weights are larger by its inverse.
    """

    def __init__(
        self, inputs: int, outputs: int, *, activate: bool = False, bias: float = 0.0, lr_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.activate = activate
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        gain = self.lr_multiplier * (GAIN if self.activate else 1)
        y = linear(x, self.weight * (gain / math.sqrt(self.weight.shape[1])), self.bias * gain)
        return activated(y) if self.activate else y


class EqualConv(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H, W], or a size changed by `resample`: "half" blurs first, "double" last.

    It computes in the dtype of x.

    Args:
        size: of the kernel, 1 or 3.
        plain: neither bias nor activation.
        clamp: of what is activated, times the gain.
    """

    kernel: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        resample: Literal["", "half", "double"] = "",
        plain: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = None if plain else nn.Parameter(torch.zeros(outputs))
        self.resample = resample
        self.clamp = clamp
        if resample:
            self.register_buffer("kernel", resampling_kernel(), persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """The result times `gain`."""
        size = self.weight.shape[-1]
        factor = gain if self.bias is None else gain * GAIN
        weight = (self.weight * (factor / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        bias = None if self.bias is None else (self.bias * factor).to(x.dtype)
        if self.resample == "half" and size == 3:
            x = conv2d(blur(x, self.kernel, padding=2), weight, bias, stride=2)
        else:
            x = halve(x, self.kernel) if self.resample == "half" else x
            x = conv2d(x, weight, bias, padding=size // 2)
            x = double(x, self.kernel) if self.resample == "double" else x
        if self.bias is None:
            return x
        return activated(x, None if self.clamp is None else self.clamp * gain)


class ModulatedConv(nn.Module):
    """A convolution whose input channels each image scales by styles, which are learnt of its w.

    [N, inputs, H, W], [N, w_dim] -> [N, outputs, H, W], or twice the size. Channels are scaled before and after one
    convolution that all images share, which gives what a convolution with weights of each image would (StyleGAN2,
    section 2.2). It computes in the dtype of x.

    Args:
        demodulate: each output channel is divided by the norm of its modulated weights; else the styles are divided by
            sqrt(inputs of one output).
        up: twice the size: a transposed convolution, then a blur.
        padding: zeros around x, of what is not `up`; None: as many as keep the size.
    """

    kernel: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.demodulate = demodulate
        self.up = up
        self.padding = size // 2 if padding is None else padding
        if up:
            self.register_buffer("kernel", resampling_kernel(), persistent=False)

    def forward(
        self, x: Tensor, w: Tensor, bias: Tensor, gain: float = 1.0, input_gain: Tensor | float = 1.0
    ) -> Tensor:
        """(The result of x times `input_gain` + bias [outputs]) times `gain`."""
        inputs = self.weight[0].numel()
        shrinks = self.demodulate and in_float16(x)  # which holds 65,504 at most; demodulation takes the factor back
        with without_autocast(w):
            styles = self.affine(w)  # [N, inputs]
            if shrinks:
                styles = styles / styles.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
        weight = self.weight / math.sqrt(inputs)  # so that half precision holds the sums, also before demodulation
        x, rounded = x * _spread(styles * input_gain, x), weight.to(x.dtype)
        if self.up:
            x = conv_transpose2d(x, rounded.transpose(0, 1), stride=2)  # [N, outputs, 2 H + 1, 2 W + 1]
            x = blur(x, self.kernel, padding=1, gain=4.0)
        else:
            x = conv2d(x, rounded, padding=self.padding)
        shift = _spread((bias * gain)[None], x)
        if not self.demodulate:
            return torch.add(shift, x, alpha=gain)
        with without_autocast(w):
            powers = linear(styles.square(), weight.square().sum((2, 3))) + 1e-8 / inputs  # [N, outputs]
        return torch.addcmul(shift, x, _spread(gain * powers.rsqrt(), x))


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """[N, C] -> [N, C, 1, 1] in the dtype of x."""
    return values.to(x.dtype)[:, :, None, None]
