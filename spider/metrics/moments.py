"""Mean and covariance of features as sums that add up: what FID needs of an image set, whatever its size.

    Moments(count, sum [d], outer [d, d]),  a + b,  a.mean(),  a.covariance()

The sums are float64. In float32 the covariance would lose about 5e-6 of its value to rounding, in float64 6e-15.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spider.embed.cache import Features
from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.metrics.spread import spread

if TYPE_CHECKING:
    from cluster.world import World

ROWS = 1024  # images of a block, added in block order
COLUMNS = 256  # columns of `outer` that are one unit of work


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

    The ranks share the columns of `outer` rather than the images: what crosses between them is one matrix [d, d],
    not one for each block, and every world size adds the blocks in the same order.
    """
    count, dim = features.shape
    if count == 0:
        raise SpiderUsageError("no images to take moments of")
    total = torch.zeros(dim, dtype=torch.float64, device=world.device)
    for block in _blocks(features, world.device):
        total += block.sum(dim=0)

    def columns(c: int) -> tuple[Tensor]:
        lo, hi = c * COLUMNS, min((c + 1) * COLUMNS, dim)
        part = torch.zeros(COLUMNS, dim, dtype=torch.float64, device=world.device)
        for block in _blocks(features, world.device):
            part[: hi - lo] += block[:, lo:hi].T @ block
        return (part,)

    (parts,) = spread(world, -(-dim // COLUMNS), columns, label="moments", heartbeat=heartbeat)
    return Moments(count, total.cpu(), parts.flatten(0, 1)[:dim].cpu())


def _blocks(features: Features, device: torch.device) -> Iterator[Tensor]:
    """The features as float64 [at most ROWS, d], in order."""
    for start in range(0, len(features), ROWS):
        yield torch.from_numpy(features[start : start + ROWS].astype(np.float64)).to(device)
