"""Batch normalisation over the global batch.

torch.nn.SyncBatchNorm does not run on CPUs; this does, and it can be differentiated twice, as a penalty needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from cluster.world import World
from spider.gan.networks.classes import ClassEmbedding
from spider.gan.networks.spectral import SpectralLinear
from spider.gan.outputs import Condition
from spider.precision import at_least_float32


class GlobalBatchNorm(nn.Module):
    """Normalises each channel by the statistics of the batch over all ranks.

    [N, C, ...] -> [N, C, ...]. Running statistics (for evaluation) move by `momentum` towards the batch's, with the
    unbiased variance, as torch.nn.BatchNorm2d's do. Defaults are Keras's, which the authors' networks use: a momentum
    of 0.99 there is 0.01 here, eps 1e-3. `affine`: each channel is scaled and shifted after that, as is learnt.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, world: World, *, momentum: float = 0.01, eps: float = 1e-3, affine: bool = True
    ) -> None:
        super().__init__()
        self.world = world
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if self.training and self.world.size > 1:
            return self._over_ranks(x)
        return batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def _over_ranks(self, x: Tensor) -> Tensor:
        own_count, ranks = x.numel() // x.shape[1], self.world.size  # every rank has as many
        count = own_count * ranks
        own_mean = _per_channel(x).mean(1)
        centred = x - _spread(own_mean, x)
        squares = _per_channel(centred).square().sum(1)
        # Chan, Golub and LeVeque's formula: one sum over ranks, and squares of deviations rather than of values
        wide = own_mean.double()  # in which the squares of float32 means are exact
        sums = self.world.sum_with_grad(torch.stack([wide, wide.square(), squares.double()]))
        means, mean_squares, squares = sums.unbind()
        mean = means / ranks
        variance = (squares + own_count * (mean_squares - ranks * mean.square())) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        scale = (variance.to(own_mean.dtype) + self.eps).rsqrt()
        scale = scale if self.weight is None else self.weight * scale
        shift = (wide - mean).to(own_mean.dtype) * scale
        shift = shift if self.bias is None else self.bias + shift
        return (centred * _spread(scale, x) + _spread(shift, x)).to(x.dtype)


def batch_norm_as_torch(channels: int, world: World, *, affine: bool = True) -> GlobalBatchNorm:
    """With the momentum and eps of torch.nn.BatchNorm2d."""
    return GlobalBatchNorm(channels, world, momentum=0.1, eps=1e-5, affine=affine)


class ClassBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift of each channel depend on the class (de Vries et al. 2017).

    [N, C, H, W] -> [N, C, H, W]. The statistics are of all classes together.
    """

    def __init__(self, channels: int, classes: int, world: World) -> None:
        super().__init__()
        self.norm = GlobalBatchNorm(channels, world, affine=False)
        self.scale = ClassEmbedding(classes, channels, mean=1.0, std=0.0)
        self.shift = ClassEmbedding(classes, channels, std=0.0)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """See the class."""
        scale, shift = (each(condition)[:, :, None, None] for each in (self.scale, self.shift))
        y: Tensor = self.norm(x) * scale + shift
        return y.to(x.dtype)


class ToldBatchNorm(nn.Module):
    """Batch norm whose scale, 1 + a dense layer, and shift follow from a vector [N, d].

    [N, C, H, W] -> [N, C, H, W]. The dense layers have spectral norm, as in FastGAN with classes and in BigGAN.

    Args:
        bias: whether they have one.
    """

    def __init__(self, channels: int, dim: int, world: World, *, bias: bool = True) -> None:
        super().__init__()
        self.norm = batch_norm_as_torch(channels, world, affine=False)
        self.scale = SpectralLinear(dim, channels, bias=bias)
        self.shift = SpectralLinear(dim, channels, bias=bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """See the class."""
        scale, shift = (each(told)[:, :, None, None] for each in (self.scale, self.shift))
        y: Tensor = self.norm(x) * (1 + scale) + shift
        return y.to(x.dtype)


def _per_channel(x: Tensor) -> Tensor:
    """[N, C, ...] -> [C, N * ...], at least float32."""
    return at_least_float32(x).transpose(0, 1).flatten(1)


def _spread(statistic: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...] to go with x."""
    return statistic.view(1, -1, *[1] * (x.dim() - 2))
