"""Batch normalisation over the global batch.

torch.nn.SyncBatchNorm does not run on CPUs; this does, and it can be differentiated twice, as a penalty needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from cluster.world import World


class GlobalBatchNorm(nn.Module):
    """Normalises each channel by the statistics of the batch over all ranks.

    [N, C, ...] -> [N, C, ...]. Running statistics (for evaluation) move by `momentum` towards the batch's, with the
    unbiased variance, as torch.nn.BatchNorm2d's do. Defaults are Keras's, which the authors' networks use: a momentum
    of 0.99 there is 0.01 here, eps 1e-3.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, world: World, *, momentum: float = 0.01, eps: float = 1e-3) -> None:
        super().__init__()
        self.world = world
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
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
        count = x.numel() // x.shape[1] * self.world.size
        # Twice over the data: the mean square less the squared mean would lose half the digits
        mean = self.world.sum_with_grad(_per_channel(x).sum(1)) / count
        centred = x - _spread(mean, x)
        variance = self.world.sum_with_grad(_per_channel(centred).square().sum(1)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * _spread(scale, x) + _spread(self.bias, x)).to(x.dtype)


def _per_channel(x: Tensor) -> Tensor:
    """[N, C, ...] -> [C, N * ...], at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).transpose(0, 1).flatten(1)


def _spread(statistic: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...] to go with x."""
    return statistic.view(1, -1, *[1] * (x.dim() - 2))
