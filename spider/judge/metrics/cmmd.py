"""CMMD: the maximum mean discrepancy of unit vectors under a Gaussian kernel, in thousandths; CLIP's, by its name.

    1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)),   k(a, b) = exp(-|a - b|^2 / (2 * 10^2))

over all pairs, each vector with itself among them, so that it is biased upwards by few images and at least 0
(Jayasumana et al. 2024; the number of the authors' code on the same features). Features are scaled to length 1, as
theirs are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.distances import Block, Points, centre_of, padded, unit_length
from spider.judge.metrics.products import times_transposed
from spider.judge.metrics.spread import spread
from spider.precision import exact_float32

if TYPE_CHECKING:
    from cluster.world import World

SIGMA = 10.0
SCALE = 1000.0
_ROWS_IN_CACHE = 64  # of a block's products: so few stay in the processor's cache through all steps of the kernel


@dataclass(frozen=True)
class Discrepancy:
    """The distance, at least 0, and its standard error over the images of both sets."""

    value: float
    stderr: float


def cmmd(
    samples: Features, reference: Features, world: World, *, progress: bool = False, heartbeat: Heartbeat = silent
) -> Discrepancy:
    """Of samples float32 [N, d] and reference float32 [M, d]. Time grows as N^2 + M^2 + N M.

    The standard error is that of the first order: from how the sum of the kernel over pairs varies among images.
    """
    sets = [unit_length(features) for features in (samples, reference)]
    centre = centre_of(sets[1])
    # Seen from the centre, products of unit vectors are small, and so is their rounding in float32
    points = [Points(features, centre, world.device, torch.float32) for features in sets]
    corners = [(s, s, a, b) for s in (0, 1) for a, b in combinations_with_replacement(points[s].blocks, 2)]
    corners += [(0, 1, a, b) for a, b in product(points[0].blocks, points[1].blocks)]

    def unit(u: int) -> tuple[Tensor, Tensor]:
        """The kernel of two blocks, summed along rows and along columns; of a block with itself, the columns are 0."""
        s, t, a, b = corners[u]
        by_row, by_column = _kernel_by_image(points[s].block(a), points[t].block(b))
        return padded(by_row), padded(by_column if (s, a) != (t, b) else torch.zeros_like(by_column))

    with exact_float32():
        found = spread(world, len(corners), unit, label="cmmd", progress=progress, heartbeat=heartbeat)
    rows, columns = (sums.cpu().numpy() for sums in found)
    within = [np.zeros(len(features)) for features in sets]
    across = [np.zeros(len(features)) for features in sets]
    for (s, t, a, b), of_rows, of_columns in zip(corners, rows, columns, strict=True):
        sums = within if s == t else across
        for which, span, part in ((s, points[s].span(a), of_rows), (t, points[t].span(b), of_columns)):
            sums[which][span] += part[: span.stop - span.start]
    n, m = map(len, sets)
    # Of each image: the mean of the kernel over its own set, less that over the other
    nearness = [within[0] / n - across[0] / m, within[1] / m - across[1] / n]
    value = nearness[0].mean() + nearness[1].mean()
    variance = sum(4 * of_set.var() / len(of_set) for of_set in nearness)
    return Discrepancy(SCALE * float(value), SCALE * math.sqrt(variance))


def _kernel_by_image(x: Block, y: Block) -> tuple[Tensor, Tensor]:
    """The kernel of two blocks of N and M vectors, summed along rows and along columns: float64 [N] and [M]."""
    products = times_transposed(x.vectors, y.vectors)
    by_row, by_column = torch.zeros_like(x.norms), torch.zeros_like(y.norms)
    for start in range(0, len(x), _ROWS_IN_CACHE):
        some = slice(start, start + _ROWS_IN_CACHE)
        squared = products[some].double().mul_(-2).add_(y.norms).add_(x.norms[some, None])
        kernel = squared.mul_(-0.5 / SIGMA**2).exp_()
        by_row[some] = kernel.sum(dim=1)
        by_column += kernel.sum(dim=0)
    return by_row, by_column


def score_cmmd(c: Comparison) -> Score:
    """See above. All ranks."""
    found = cmmd(c.samples, c.reference, c.world, progress=c.progress, heartbeat=c.heartbeat)
    return Score(found.value, stderr=found.stderr, protocol={"sigma": SIGMA, "scale": SCALE, "unit_length": True})
