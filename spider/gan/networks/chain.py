"""CHAIN's normalisation in a discriminator (Ni and Koniusz 2024): channels brought to one scale, and none made larger.

    psi_c = sqrt(mean of x_c^2 over images and places + eps),   y_nc = x_nc psi_min / psi_c with probability p, or x_nc

psi_min is the least of all channels, and no gradient goes through it. So a layer never makes a value larger, as batch
normalisation does, and it does not centre. Instead the means of channels are held near 0 by a term beside the losses
(`spider.gan.auxiliary.chain`, which also steers p). These are the numbers of the public code's `chain_batch`
(MaxwellYaoNi/CHAIN, FastGANDBig/chain_models.py), with means over the global batch.

Its other form normalises by running means, of x_c^2 and, within the backward pass, of gradients times y. That is not
here: what a backward pass finds does not reach `Method.stepped`, and would count twice in a pass that runs twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cluster.world import World

_EPS = 1e-5
OFF_ZERO = "off_zero"  # the name among `DOut.features` of the sum over all layers of how far their channels are off 0


class Chain(nn.Module):
    """[N, C, H, W] -> the same.

    Attributes:
        p: of an image's channel to be normalised. Who steers it saves it.
    """

    p: Tensor

    def __init__(self, channels: int, world: World) -> None:
        super().__init__()
        self.channels, self.world = channels, world
        self.register_buffer("p", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Also [N], whose mean over the global batch is the sum over channels of the squares of their means.

        Args:
            uniforms: [N, C], by which channels are chosen.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        psi = (self._over_ranks(wide.square().mean((0, 2, 3))) + _EPS).sqrt()
        scales = torch.where(uniforms < self.p, psi.min().detach() / psi, 1.0)  # [N, C]
        means = wide.mean((2, 3))
        with torch.no_grad():
            mean = self._over_ranks(means.mean(0))
        # Of the mean m of m_n, m^2 = 2 m m_n - m^2 on average, with the same gradient where the first m is held
        return (wide * scales[:, :, None, None]).to(x.dtype), (2 * mean * means - mean.square()).sum(1)

    def _over_ranks(self, mean: Tensor) -> Tensor:
        """The mean over the ranks, each of which has as many images."""
        if self.world.size == 1:
            return mean
        return (self.world.sum_with_grad(mean.double()) / self.world.size).to(mean.dtype)
