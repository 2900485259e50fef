"""Kernel distance between two image sets: KID when the features are Inception's.

The unbiased estimate of the squared maximum mean discrepancy under the kernel (x.y / d + 1)^3 (Binkowski et al. 2018,
sec. 4 and app. D). Unbiased, so comparable at different numbers of images, and around 0, also below it, for one law.

Products x.y are float32, which is exact enough: powers and sums are float64, and against a float64 computation of
everything the estimate is off by about 5e-8 of the kernel's mean, a thousandth of the spread of one subset's estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spider import draws
from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.products import times_transposed
from spider.judge.metrics.spread import spread
from spider.precision import exact_float32

if TYPE_CHECKING:
    from cluster.world import World

SUBSETS = 100
SUBSET_SIZE = 1000
ROWS = 1024  # vectors of a block
_ROWS_IN_CACHE = 64  # of a block's products: so few stay in the processor's cache through all steps of the kernel


@dataclass(frozen=True)
class KernelDistance:
    """The estimate over random subsets.

    Attributes:
        value: mean over the subsets.
        std: standard deviation over the subsets (population, as torch-fidelity): the spread of one subset's estimate,
            not the error of the mean. None where it would say nothing: a single subset, or every one the whole of both
            sets.
        subset_size: images of each set in a subset; fewer than asked for if a set has fewer.
    """

    value: float
    std: float | None
    subsets: int
    subset_size: int


def kid(
    samples: Features,
    reference: Features,
    world: World,
    *,
    seed: int,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> KernelDistance:
    """Mean over subsets drawn without replacement from float32 [N, d] and [M, d]. Subset s is drawn from (seed, s)."""
    size = min(subset_size, len(samples), len(reference))
    _require_two(size)

    def unit(s: int) -> tuple[Tensor]:
        rng = draws.generator(seed, "metrics.kid", s)
        x, y = (
            torch.from_numpy(features[rng.choice(len(features), size, replace=False)]).to(world.device)
            for features in (samples, reference)
        )
        within = (_sum_of_pairs(x) + _sum_of_pairs(y)) / (size * (size - 1))
        return (within - 2 * _sum_across(x, y) / size**2,)

    with exact_float32():
        (estimates,) = spread(world, subsets, unit, label="kid", progress=progress, heartbeat=heartbeat)
    differ = subsets > 1 and size < max(len(samples), len(reference))
    return KernelDistance(
        float(estimates.mean()), float(estimates.std(correction=0)) if differ else None, subsets, size
    )


@dataclass(frozen=True)
class FullEstimate:
    """The estimate from all pairs, and its standard error over the images of both sets, to the first order."""

    value: float
    stderr: float


def kid_full(
    samples: Features, reference: Features, world: World, *, progress: bool = False, heartbeat: Heartbeat = silent
) -> FullEstimate:
    """The estimate from all pairs at once: float32 [N, d], [M, d], any N and M above 1. No draw, no seed."""
    _require_two(min(len(samples), len(reference)))
    n, m = len(samples), len(reference)
    with exact_float32():
        (of_samples, _), (of_reference, _), across = (
            _sums_by_image(x, y, world, within=within, progress=progress, heartbeat=heartbeat)
            for x, y, within in ((samples, samples, True), (reference, reference, True), (samples, reference, False))
        )
    # Of each image: the mean of the kernel over its own set, less that over the other
    nearness = [of_samples / (n - 1) - across[0] / m, of_reference / (m - 1) - across[1] / n]
    variance = sum(4 * float(of_set.var(correction=0)) / len(of_set) for of_set in nearness)
    return FullEstimate(float(nearness[0].mean() + nearness[1].mean()), math.sqrt(variance))


def _sums_by_image(
    x: Features, y: Features, world: World, *, within: bool, progress: bool, heartbeat: Heartbeat
) -> tuple[Tensor, Tensor]:
    """The kernel of [N, d] and [M, d], summed over the other set for each image: float64 [N] and [M].

    Within a set, which is then given twice, pairs of an image with itself are left out, and both sums are the same.
    """
    # The kernel matrix of a set with itself is symmetric: blocks above the diagonal stand for those below.
    corners = [(i, j) for i in range(0, len(x), ROWS) for j in range(0, len(y), ROWS) if i <= j or not within]

    def unit(u: int) -> tuple[Tensor, ...]:
        i, j = corners[u]
        rows = torch.from_numpy(x[i : i + ROWS]).to(world.device)
        columns = rows if within and i == j else torch.from_numpy(y[j : j + ROWS]).to(world.device)
        products = times_transposed(rows, columns)
        by_row, by_column = _cubes_by_image(products, x.shape[1])
        if within and i == j:
            by_row -= (products.diagonal().double() / x.shape[1] + 1) ** 3
            by_column.zero_()
        return tuple(torch.nn.functional.pad(sums, (0, ROWS - len(sums))) for sums in (by_row, by_column))

    rows, columns = spread(world, len(corners), unit, label="kid_full", progress=progress, heartbeat=heartbeat)
    of_x, of_y = (torch.zeros(len(z) + ROWS, dtype=torch.float64) for z in (x, y))  # with room for padding, which is 0
    for (i, j), by_row, by_column in zip(corners, rows.cpu(), columns.cpu(), strict=True):
        of_x[i : i + ROWS] += by_row
        (of_x if within else of_y)[j : j + ROWS] += by_column
    return of_x[: len(x)], (of_x if within else of_y)[: len(y)]


def _cubes_by_image(products: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(product / dim + 1)^3 of float32 [N, M], summed along rows and along columns: float64 [N] and [M]."""
    by_row = products.new_zeros(products.shape[0], dtype=torch.float64)
    by_column = products.new_zeros(products.shape[1], dtype=torch.float64)
    for start in range(0, len(products), _ROWS_IN_CACHE):
        base = products[start : start + _ROWS_IN_CACHE].double().div_(dim).add_(1)
        cubes = base.square().mul_(base)
        by_row[start : start + _ROWS_IN_CACHE] = cubes.sum(dim=1)
        by_column += cubes.sum(dim=0)
    return by_row, by_column


def _sum_across(x: Tensor, y: Tensor) -> Tensor:
    """The kernel summed over all pairs of float32 [N, d] and [M, d]: float64 []."""
    return _sum_of_cubes(times_transposed(x, y), x.shape[1])


def _sum_of_pairs(x: Tensor) -> Tensor:
    """The kernel summed over all pairs of two different rows of float32 [N, d]: float64 []."""
    products = times_transposed(x, x)
    return _sum_of_cubes(products, x.shape[1]) - _sum_of_cubes(products.diagonal()[None], x.shape[1])


def _sum_of_cubes(products: Tensor, dim: int) -> Tensor:
    """The sum of (product / dim + 1)^3 over float32 [N, M]: float64 []."""
    total = products.new_zeros((), dtype=torch.float64)
    for start in range(0, len(products), _ROWS_IN_CACHE):
        base = products[start : start + _ROWS_IN_CACHE].double().div_(dim).add_(1).flatten()
        total += base.square().dot(base)
    return total


def _require_two(images: int) -> None:
    if images < 2:
        raise SpiderUsageError(f"the kernel distance needs at least 2 images in each set, found {images}")
