"""Where signed distance is measured: cubes around the target, ever wider, and points spread evenly in them.

The cube of radius r has its centre at the target's mean and side r times the target's standard deviation, averaged
over dimensions, the same in every dimension. A point of it is centre + h u, with h half the side and u in [-1, 1]^n.
u does not depend on the radius or on the source, so that one product of points and images serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spider import draws
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed.cache import Features
from spider.judge.embed.features import PIECE
from untrusted.counts import counted

Floats = NDArray[np.float64]

# clean-sid's 49 radii. Its steps 1 .. 49 are half a standard deviation of side each, and the abscissa that it records
# is one step less than the radius it used.
PAPER_RADII = tuple(step / 2 for step in range(1, 50))

_BLOCK = 256  # images that are summed in float32, before float64 takes over


@dataclass(frozen=True)
class FeatureSummary:
    """What signed distance needs to know of a set as a whole. Those of two parts add up to that of both.

    Attributes:
        count: number of images.
        mean: float64 [n].
        scatter: float64 [n], sum of squared deviations from the mean, of each dimension.
    """

    count: int
    mean: Floats
    scatter: Floats

    def __add__(self, other: FeatureSummary) -> FeatureSummary:
        """Both sets together (Chan, Golub and LeVeque 1979); to the last bit, it depends on the order of adding."""
        count = self.count + other.count
        shift = other.mean - self.mean
        return FeatureSummary(
            count,
            self.mean + shift * (other.count / count),
            self.scatter + other.scatter + np.square(shift) * (self.count * other.count / count),
        )

    @cached_property
    def variance(self) -> Floats:
        """float64 [n], of each dimension, divided by count - 1."""
        return self.scatter / (self.count - 1)

    @cached_property
    def total_variance(self) -> float:
        """Trace of the covariance."""
        return float(self.variance.sum())

    @cached_property
    def scale(self) -> float:
        """Standard deviation, averaged over dimensions."""
        return float(np.sqrt(self.variance).mean())

    def checked(self, name: str) -> Self:
        """Itself.

        Raises:
            SpiderUsageError: fewer than two images.
            SpiderError: a feature is not finite. Both say `name`.
        """
        if self.count < 2:
            raise SpiderUsageError(f"{name}: {counted(self.count, 'image')}; signed distance needs at least 2")
        if not np.isfinite(self.scatter).all():
            raise SpiderError(f"{name}: a feature is not finite")
        return self


def summarise_part(features: Features) -> FeatureSummary:
    """The summary of float32 [N, n], N from 1 up; of as many as `PIECE`, and sums of these, for any number."""
    mean: Floats = features.mean(0, dtype=np.float64)
    scatter = np.zeros_like(mean)
    centre = mean.astype(np.float32)  # any centre near the mean keeps the digits
    for start in range(0, len(features), _BLOCK):
        scatter += np.square(features[start : start + _BLOCK] - centre).sum(0)
    return FeatureSummary(len(features), mean, scatter)


def summarise(features: Features, name: str) -> FeatureSummary:
    """The summary of float32 [N, n], piece by piece as features are kept. Raises as `FeatureSummary.checked`."""
    if features.ndim != 2 or len(features) < 2:
        raise SpiderUsageError(f"{name}: features are {list(features.shape)}; signed distance needs at least 2 images")
    parts = (summarise_part(features[start : start + PIECE]) for start in range(0, len(features), PIECE))
    return reduce(add, parts).checked(name)


@dataclass(frozen=True)
class Cube:
    """The cubes around one target.

    Attributes:
        target: summary of the target's features.
        radii: sides, in units of the target's standard deviation.
    """

    target: FeatureSummary
    radii: tuple[float, ...] = PAPER_RADII

    def __post_init__(self) -> None:
        if not self.radii or min(self.radii) <= 0:
            raise SpiderUsageError(f"radii must be greater than 0; found {self.radii}")
        if self.target.scale == 0:
            raise SpiderError("the target's features do not vary: there is no cube around them")

    @property
    def dim(self) -> int:
        return len(self.target.mean)

    @cached_property
    def half_widths(self) -> list[float]:
        """Half the side of the cube of each radius, in units of the features."""
        return [radius * self.target.scale / 2 for radius in self.radii]

    @cached_property
    def typical_distances(self) -> list[float]:
        """For each radius, the root mean square distance of the target's images to the cube's points."""
        return [float(np.sqrt(self.dim * h**2 / 3 + self.target.total_variance)) for h in self.half_widths]


def unit_points(seed: int, subset: int, count: int, dim: int) -> NDArray[np.float32]:
    """Points u spread evenly in [-1, 1]^dim, float32 [count, dim]; the same for every source and radius."""
    points = draws.generator(seed, "sid.points", subset).random((count, dim), dtype=np.float32)
    points *= 2
    points -= 1
    return points


def rows_of_subsets(seed: int, subsets: int, size: int, count: int) -> NDArray[np.int64]:
    """Which of `count` images each subset takes: all in shuffled order, and again from the start. [subsets, size]"""
    order = draws.generator(seed, "sid.images").permutation(count)
    return np.resize(order, (subsets, size))
