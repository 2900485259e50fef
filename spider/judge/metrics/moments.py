"""Mean and covariance of features as sums that add up: what FID needs of an image set, whatever its size.

    Moments(count, sum [d], outer [d, d]),  a + b,  a.mean(),  a.covariance()

The sums are float64. In float32 the covariance would lose about 5e-6 of its value to rounding, in float64 6e-15.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.products import transposed_times

if TYPE_CHECKING:
    from cluster.world import World

ROWS = 1024  # images of a block, added in block order
COLUMNS = 512  # of a tile of `outer`


@dataclass(frozen=True)
class Moments:
    """Sums over a set of feature vectors.

    Attributes:
        count: number of vectors.
        sum: float64 [d], the sum of x.
        outer: float64 [d, d], the sum of x x^T.
    """

    count: int
    sum: Tensor
    outer: Tensor

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.sum)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together."""
        return Moments(self.count + other.count, self.sum + other.sum, self.outer + other.outer)

    def __sub__(self, part: Moments) -> Moments:
        """The moments of the others, where `part` is some of the vectors."""
        return Moments(self.count - part.count, self.sum - part.sum, self.outer - part.outer)

    def mean(self) -> Tensor:
        """float64 [d]."""
        return self.sum / self.count

    def covariance(self, ddof: int = 1) -> Tensor:
        """float64 [d, d], divided by count - ddof; zeros for a single vector."""
        mean = self.mean()
        scatter = self.outer - self.count * torch.outer(mean, mean)
        return scatter / max(self.count - ddof, 1)


def moments_of(features: Features, world: World, *, heartbeat: Heartbeat = silent) -> Moments:
    """The moments of float32 [N, d], summed on `world.device` and returned on the CPU, for LAPACK to decompose.

    `outer` is symmetric. The ranks share the tiles of its upper half, tile t on rank t mod W, rather than the images:
    what crosses between them is half a matrix, not a matrix for each block, and every world size adds the blocks in the
    same order. Every rank converts each block once, and holds no more than one.
    """
    count, dim = features.shape
    if count == 0:
        raise SpiderUsageError("no images to take moments of")
    spans = [slice(start, min(start + COLUMNS, dim)) for start in range(0, dim, COLUMNS)]
    tiles = list(combinations_with_replacement(spans, 2))
    mine = tiles[world.rank :: world.size]
    sums = torch.zeros(-(-len(tiles) // world.size), COLUMNS, COLUMNS, dtype=torch.float64, device=world.device)
    total = torch.zeros(dim, dtype=torch.float64, device=world.device)
    memory = torch.empty(min(count, ROWS), dim, dtype=torch.float64, device=world.device)
    for start in range(0, count, ROWS):
        heartbeat()
        rows_of_block = torch.from_numpy(features[start : start + ROWS])
        block = memory[: len(rows_of_block)].copy_(rows_of_block)
        total += block.sum(dim=0)
        for tile_sum, (rows, columns) in zip(sums, mine, strict=False):
            tile = transposed_times(block[:, rows], block[:, columns])
            tile_sum[: len(tile), : tile.shape[1]] += tile
    gathered = world.all_gather(sums).transpose(0, 1).flatten(0, 1).cpu()  # tile t is row t
    outer = torch.from_numpy(np.empty((dim, dim)))
    for tile_sum, (rows, columns) in zip(gathered, tiles, strict=False):
        tile = tile_sum[: rows.stop - rows.start, : columns.stop - columns.start]
        outer[rows, columns], outer[columns, rows] = tile, tile.T
    return Moments(count, total.cpu(), outer)


def moments_here(features: Features, device: torch.device) -> Moments:
    """The moments of float32 [N, d] by this rank alone, summed on `device` and returned on the CPU."""
    count, dim = features.shape
    outer = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    total = torch.zeros(dim, dtype=torch.float64, device=device)
    for start in range(0, count, ROWS):
        block = torch.from_numpy(features[start : start + ROWS]).to(device).double()
        total += block.sum(dim=0)
        outer += transposed_times(block, block)
    return Moments(count, total.cpu(), outer.cpu())
