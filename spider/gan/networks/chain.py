"""CHAIN's normalisation in a discriminator (Ni and Koniusz 2024): channels brought to one scale, and none made larger.

    psi_c = sqrt(mean of x_c^2 over images and places + eps),   y_nc = x_nc psi_min / psi_c with probability p, or x_nc

psi_min is the least of all channels, and no gradient goes through it. So a layer never makes a value larger, as batch
normalisation does, and it does not centre. Instead the means of channels are held near 0 by a term beside the losses
(`spider.gan.auxiliary.chain`, which also steers p). These are the numbers of the public code's `chain_batch`
(MaxwellYaoNi/CHAIN, FastGANDBig/chain_models.py), with means over the global batch.

Its cumulative form (`chain` there, which its README trains with) divides by moving means instead of the batch's:

    v_c = 0.9 v_c + 0.1 mean of x_c^2,   psi_c = sqrt(v_c + eps),   z_c = x_c / psi_c,   y_nc = z_nc sqrt(v_min)

Of the gradient u of z the backward pass takes a moving mean as well, where the derivative has the batch's:

    g_c = 0.9 g_c + 0.1 mean of z_c u_c,   gradient of x_c = (u_c - g_c z_c) / psi_c

There is a v of real images, and one of generated ones; a g of each in the discriminator's step, and one of generated
images in the generator's. At first v is 1 and g is 0. They stay while p is 0.

The networks that have it are DCGAN's and FastGAN's discriminators, in the place of batch norms. The published one with
FastGAN's generator is another: residual blocks without batch norms, a dense layer for one logit, no smaller image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.outputs import Condition, Draw
from spider.precision import at_least_float32

_EPS = 1e-5
_DECAY = 0.9
OFF_ZERO = "off_zero"  # the name among `DOut.features` of the sum over all layers of how far their channels are off 0

_DRAWN = "chain"  # the name of the draws by which channels are chosen
_MEANS = {"d_main.real": (0, 0), "d_main.fake": (1, 1), "g_main.fake": (1, 2)}  # numbers of v and g, by `Condition.use`


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

    def forward(self, x: Tensor, uniforms: Tensor, use: str | None = None) -> tuple[Tensor, Tensor]:
        """Also [N], whose mean over the global batch is the sum over channels of the squares of their means.

        Args:
            uniforms: [N, C], by which channels are chosen.
            use: as of `Condition`.
        """
        wide = at_least_float32(x)
        y = self.normalised(wide, uniforms < self.p, use)
        means = wide.mean((2, 3))
        with torch.no_grad():
            mean = _over_ranks(means.mean(0), self.world)
        # Of the mean m of m_n, m^2 = 2 m m_n - m^2 on average, with the same gradient where the first m is held
        return y.to(x.dtype), (2 * mean * means - mean.square()).sum(1)

    def normalised(self, x: Tensor, chosen: Tensor, use: str | None) -> Tensor:
        """Those channels that are chosen, bool [N, C]; the others as they are."""
        psi = (_over_ranks(x.square().mean((0, 2, 3)), self.world) + _EPS).sqrt()
        scales = torch.where(chosen, psi.min().detach() / psi, 1.0)  # [N, C]
        return x * scales[:, :, None, None]


class CumulativeChain(Chain):
    """The cumulative form. A pass may run once, as with batch normalisation, and cannot be differentiated twice.

    Attributes:
        squares: v of real and of generated images, [2, C].
        slopes: g of real and generated images in the discriminator's step, and in the generator's, [3, C].
    """

    squares: Tensor
    slopes: Tensor

    def __init__(self, channels: int, world: World) -> None:
        super().__init__(channels, world)
        self.register_buffer("squares", torch.ones(2, channels))
        self.register_buffer("slopes", torch.zeros(3, channels))

    def normalised(self, x: Tensor, chosen: Tensor, use: str | None) -> Tensor:
        """See the base class. Raises SpiderUsageError: there are no means for such a use."""
        if use not in _MEANS:
            raise SpiderUsageError(
                f"discriminator.norm=chain_cumulative has no means of images that are judged for {use}: "
                f"there are {', '.join(_MEANS)}"
            )
        squares, slopes = (means[i] for means, i in zip((self.squares, self.slopes), _MEANS[use], strict=True))
        moves = self.p > 0
        with torch.no_grad():
            _move(squares, _over_ranks(x.square().mean((0, 2, 3)), self.world), moves)
            psi, least = (squares + _EPS).sqrt(), squares.min().sqrt()
        normalised = _Cumulative.apply(x, psi, least, slopes, moves, self.world)
        return torch.where(chosen[:, :, None, None], normalised, x)


CHAINS = {"chain": Chain, "chain_cumulative": CumulativeChain}  # by the name of `norm`


def draws_of(layers: Sequence[Chain]) -> dict[str, Draw]:
    """What a network with these layers asks for."""
    return {_DRAWN: Draw("uniform", (sum(each.channels for each in layers),))} if layers else {}


class Passage:
    """A pass of N images through the layers of a network, which come in their order, and what those tell.

    Without layers it asks for no draws and tells nothing.
    """

    def __init__(self, layers: Sequence[Chain], images: Tensor, condition: Condition) -> None:
        drawn = torch.split(condition.draws[_DRAWN], [each.channels for each in layers], dim=1) if layers else ()
        self._uniforms, self._use = iter(drawn), condition.use
        self._off_zero = torch.zeros(len(images), device=images.device) if layers else None

    def through(self, layer: Chain, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        y: Tensor
        y, off_zero = layer(x, next(self._uniforms), self._use)
        assert self._off_zero is not None
        self._off_zero = self._off_zero + off_zero
        return y

    def told(self) -> Mapping[str, Tensor]:
        """For `DOut.features`: the sum over the layers so far, [N]."""
        return {} if self._off_zero is None else {OFF_ZERO: self._off_zero}


class _Cumulative(torch.autograd.Function):
    """x / psi, times sqrt(v_min), and the backward pass above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, psi: Tensor, least: Tensor, slopes: Tensor, moves: Tensor, world: World) -> Tensor:
        z = x / psi[:, None, None]
        ctx.save_for_backward(z, psi, least, moves)
        ctx.slopes, ctx.world = slopes, world
        return z * least

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, psi, least, moves = ctx.saved_tensors
        u = gradient * least
        _move(ctx.slopes, _over_ranks((z * u).mean((0, 2, 3)), ctx.world), moves)
        of_x = (u - ctx.slopes[:, None, None] * z) / psi[:, None, None]
        return torch.where(moves, of_x, 0), None, None, None, None, None


def _move(means: Tensor, towards: Tensor, moves: Tensor) -> None:
    """Let moving means take in those of a batch, where `moves` is true."""
    means.copy_(torch.where(moves, _DECAY * means + (1 - _DECAY) * towards, means))


def _over_ranks(mean: Tensor, world: World) -> Tensor:
    """The mean over the ranks, each of which has as many images."""
    if world.size == 1:
        return mean
    return (world.sum_with_grad(mean.double()) / world.size).to(mean.dtype)
