"""The prior whose midpoints are distributed most like itself, so that interpolated latents look like drawn ones.

Singh et al. (2019, arXiv 1905.07061) choose the density p on [-2, 2] that minimises KL(q || p), q being the law of the
midpoint of two independent draws from p, under a constraint on the variance. Their solution was not published as
numbers; `solve` makes one, with variance 1/4, and `nonparametric.json` beside this file holds it (1,024 bins of width
1/256; a Gaussian of the same variance has 3.4 times its divergence). Coordinates are independent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources

import torch
from torch import Tensor
from torch.fft import irfft, rfft

from spider import draws
from spider.gan.sources.config import NonparametricConfig
from spider.gan.sources.prior import Prior

BINS = 1024
EDGE = 2.0
VARIANCE = 0.25


class Nonparametric(Prior):
    """A bin by its probability, and a uniform place in the bin; float32 in [-2, 2)."""

    def __init__(self, config: NonparametricConfig) -> None:
        super().__init__(config, (config.dim,))

    def draw(self, seed: int, stream: str, indices: Sequence[int]) -> Tensor:
        """See Prior."""
        pair = draws.uniform(seed, stream, indices, (2, *self.shape)).double()
        chosen = torch.searchsorted(density().cumsum(0), pair[:, 0].contiguous(), right=True).clamp_max(BINS - 1)
        return ((chosen + pair[:, 1]) * (2 * EDGE / BINS) - EDGE).float()


@cache
def density() -> Tensor:
    """The stored solution: probability of every bin from -2 to 2, float64 [1024], summing to 1."""
    half = json.loads((resources.files("spider.gan.sources") / "nonparametric.json").read_text())["outward_from_zero"]
    return _symmetric(torch.tensor(half, dtype=torch.float64))


def divergence(p: Tensor) -> Tensor:
    """KL(q || p) in nats, q the law of the midpoint of two draws from p. p: float64 [B], summing to 1."""
    count = len(p)
    spectrum = rfft(p, 2 * count)
    total = irfft(spectrum * spectrum, 2 * count)[: 2 * count - 1].clamp_min(0)  # law of i + j
    middle, between = total[0::2], total[1::2] / 2  # an odd sum lies between two bins and is shared by them
    q = middle + torch.cat([between, between.new_zeros(1)]) + torch.cat([between.new_zeros(1), between])
    tiny = 1e-300
    gain: Tensor = q * ((q + tiny).log() - (p + tiny).log())
    return gain.sum()


def variance(p: Tensor) -> Tensor:
    """Variance of the law with bin probabilities p, taken at the bins' centres. p: float64 [B]."""
    centres = (torch.arange(len(p), dtype=p.dtype) + 0.5) * (2 * EDGE / len(p)) - EDGE
    return (p * centres.square()).sum()


def solve(rounds: int = 15) -> Tensor:
    """Minimise the divergence over symmetric laws of variance 1/4: an augmented Lagrangian around L-BFGS, seconds."""
    radius = (torch.arange(BINS // 2, dtype=torch.float64) + 0.5) * (2 * EDGE / BINS)
    logits = (-(1 + (radius / 0.3).square()).log()).requires_grad_()  # start from a heavy-tailed law
    multiplier, stiffness = 0.0, 50.0
    for _ in range(rounds):
        optimizer = torch.optim.LBFGS([logits], max_iter=100, history_size=20, line_search_fn="strong_wolfe")

        def loss(multiplier: float = multiplier) -> Tensor:
            logits.grad = None
            p = _symmetric(logits.softmax(0))
            excess = variance(p) - VARIANCE
            value = divergence(p) - multiplier * excess + stiffness * excess.square()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        multiplier -= 2 * stiffness * float(variance(_symmetric(logits.detach().softmax(0))) - VARIANCE)
    return _symmetric(logits.detach().softmax(0))


def _symmetric(half: Tensor) -> Tensor:
    p = torch.cat([half.flip(0), half])
    return p / p.sum()
