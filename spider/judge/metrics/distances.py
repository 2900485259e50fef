"""Distances between feature vectors, block by block, so that 50,000 x 50,000 of them never stand in memory.

What is decided by comparing two distances (is this sample inside that ball?) is decided in float64, and is the same at
every world size and for every order of the images, ties included: distances below rounding are 0, and radii are
compared with a tolerance far above rounding and far below any difference that features can have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.products import times_transposed
from spider.judge.metrics.spread import own_units, spread
from spider.precision import exact_float32

if TYPE_CHECKING:
    from cluster.world import World

ROWS = 1024  # vectors of a block
_KEPT_BYTES = 2**28  # of float64 blocks of one set of points, which are made once as far as they fit
_ZERO = 1e-12  # of |x|^2 + |y|^2: |x - y|^2 below it is rounding
_TIE = 1e-9  # of r^2
_EPS32 = float(np.finfo(np.float32).eps)
_CANDIDATES = 64  # for the nearest of an image, on average; of more, products take less time than differences
_PAIRS = 4096  # vectors of float64 that are subtracted at once


@dataclass(frozen=True)
class Block:
    """Some consecutive vectors.

    Attributes:
        vectors: float64 [at most ROWS, d], or of the dtype that was asked for.
        norms: float64 [at most ROWS], |x|^2.
    """

    vectors: Tensor
    norms: Tensor

    def __len__(self) -> int:
        return len(self.norms)


class Points:
    """Feature vectors by blocks of `ROWS`, as float64 on a device, seen from a centre.

    The centre changes no distance; near the points, it makes the rounding of |x|^2 + |y|^2 - 2 x.y small.
    """

    def __init__(
        self,
        features: Features,
        centre: NDArray[np.float64],
        device: torch.device,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """View float32 [N, d] from a centre float64 [d]. `dtype` is that of products, whose rounding one may allow."""
        self._features = features
        self._centre = centre
        self._device = device
        self._dtype = dtype
        # A cache of these points' own, rather than of the class
        self.block = lru_cache(max(1, _KEPT_BYTES // (8 * ROWS * features.shape[1])))(self._block)

    def __len__(self) -> int:
        return len(self._features)

    @property
    def blocks(self) -> range:
        """The numbers of the blocks."""
        return range(-(-len(self) // ROWS))

    def span(self, b: int) -> slice:
        """Which vectors block b holds."""
        return slice(b * ROWS, min((b + 1) * ROWS, len(self)))

    def _block(self, b: int) -> Block:
        vectors = torch.from_numpy(self._features[self.span(b)] - self._centre).to(self._device, self._dtype)
        return Block(vectors, vectors.double().square().sum(dim=1))


def centre_of(features: Features) -> NDArray[np.float64]:
    """The mean, float64 [d]."""
    return np.asarray(features.mean(axis=0, dtype=np.float64))


def unit_length(features: Features) -> Features:
    """Each vector of [N, d] scaled to length 1; zeros stay zeros."""
    lengths = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))[:, None]
    return np.asarray(features / np.where(lengths > 0, lengths, 1), np.float32)


def squared_distances(x: Block, y: Block) -> Tensor:
    """|x_i - y_j|^2, float64 [N, M]; exactly 0 for equal vectors, if they are float64."""
    scale = x.norms[:, None] + y.norms
    squared = times_transposed(x.vectors, y.vectors).double().mul_(-2).add_(scale)
    return squared.masked_fill_(squared < scale.mul_(_ZERO), 0)


def within(squared: Tensor, squared_radii: Tensor, *, strict: bool) -> Tensor:
    """Whether a distance is less than a radius (strict), or at most it."""
    return squared < squared_radii * (1 - _TIE) if strict else squared <= squared_radii * (1 + _TIE)


def squared_radii(
    points: Points, ks: Sequence[int], world: World, *, progress: bool = False, heartbeat: Heartbeat = silent
) -> Tensor:
    """Squared distance of every point to its k-th nearest other point, for each k: float64 [len(ks), N]."""
    deepest = max(ks)
    if deepest >= len(points):
        raise SpiderUsageError(f"the {deepest} nearest neighbours of each image need more than {len(points)} images")
    # Distances are symmetric: each pair of blocks is one unit, and tells both blocks of their neighbours. What was
    # found of a point's smallest distances is put together in any order to the same.
    pairs = list(combinations_with_replacement(points.blocks, 2))
    smallest = torch.full((len(points), deepest), torch.inf, dtype=torch.float64, device=world.device)
    for u in own_units(world, len(pairs), label="neighbours", progress=progress, heartbeat=heartbeat):
        if u >= len(pairs):
            continue
        a, b = pairs[u]
        squared = squared_distances(points.block(a), points.block(b))
        if a == b:
            squared.fill_diagonal_(torch.inf)
        else:
            _lower(smallest[points.span(b)], squared.T)
        _lower(smallest[points.span(a)], squared)
    everybody = world.all_gather(smallest).movedim(0, 1).flatten(1)  # [W, N, deepest] -> [N, W * deepest]
    smallest = everybody.topk(deepest, dim=1, largest=False).values
    return torch.stack([smallest[:, k - 1] for k in ks])


def _lower(smallest: Tensor, squared: Tensor) -> None:
    """Let the smallest distances known of each row, ascending [n, k], take in more distances [n, m]."""
    k = min(smallest.shape[1], squared.shape[1])
    candidates = squared.topk(k, dim=1, largest=False).values
    smallest.copy_(torch.cat([smallest, candidates], dim=1).sort(dim=1).values[:, : smallest.shape[1]])


@dataclass(frozen=True)
class Nearest:
    """The nearest point of each query.

    Attributes:
        distances: float64 [N].
        indices: int64 [N]; of equally near points, the first.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]


def nearest(
    queries: Features,
    points: Features,
    world: World,
    *,
    but: NDArray[np.int64] | None = None,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> Nearest:
    """The nearest of `points` float32 [M, d] to each of `queries` float32 [N, d].

    Products are float32, which takes half the time. Whatever may be the nearest within their rounding is measured again
    in float64, so that the result is exact.

    Args:
        but: int64 [N], for each query a point that does not count, such as itself.
    """
    centre = centre_of(points)
    rough_from, rough_to = (Points(f, centre, world.device, torch.float32) for f in (queries, points))
    exact_from, exact_to = (Points(f, centre, world.device) for f in (queries, points))
    largest = max(float(rough_to.block(c).norms.max()) for c in rough_to.blocks)
    rounding = (queries.shape[1] + 8) * _EPS32  # of a product of two vectors, relative to their lengths

    def unit(b: int) -> tuple[Tensor, ...]:
        rows, span = rough_from.block(b), rough_from.span(b)
        rough = rows.vectors.new_empty(len(rows), len(points))  # squared distances, less the same number in each row
        for c in rough_to.blocks:
            columns = rough_to.block(c)
            products = times_transposed(rows.vectors, columns.vectors)
            torch.add(columns.norms.float(), products, alpha=-2, out=rough[:, rough_to.span(c)])
        if but is not None:
            rough[torch.arange(len(rows)), torch.from_numpy(but[span])] = torch.inf
        within_rounding = rough.min(dim=1).values + 2 * rounding * (rows.norms + largest).float()
        candidates = rough <= within_rounding[:, None]
        if int(candidates.sum()) > _CANDIDATES * len(rows):  # such as copies of one image
            blocks = [squared_distances(exact_from.block(b), exact_to.block(c)) for c in exact_to.blocks]
            best, index = torch.cat(blocks, dim=1).masked_fill_(~candidates, torch.inf).min(dim=1)
            return padded(best), padded(index)
        i, j = (found.cpu().numpy() for found in candidates.nonzero(as_tuple=True))
        squared = _squared_between(queries[span], points, i, j)
        order = np.lexsort((j, squared, i))
        first = order[np.unique(i[order], return_index=True)[1]]
        return tuple(padded(torch.from_numpy(found[first]).to(world.device)) for found in (squared, j))

    with exact_float32():
        best, index = spread(
            world, len(rough_from.blocks), unit, label="nearest images", progress=progress, heartbeat=heartbeat
        )
    best, index = (values.flatten(0, 1)[: len(queries)].cpu() for values in (best, index))
    return Nearest(best.sqrt().numpy(), index.numpy())


def _squared_between(x: Features, y: Features, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
    """|x_i - y_j|^2 for each pair of numbers, float64, some pairs at a time."""
    parts = []
    for start in range(0, len(i), _PAIRS):
        some = slice(start, start + _PAIRS)
        difference = x[i[some]].astype(np.float64) - y[j[some]]
        parts.append(np.einsum("nd,nd->n", difference, difference))
    return np.concatenate(parts)


def padded(rows: Tensor) -> Tensor:
    """A block's results [n, ...] as [ROWS, ...], zeros after them."""
    full = rows.new_zeros(ROWS, *rows.shape[1:])
    full[: len(rows)] = rows
    return full
