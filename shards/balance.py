"""An endless order of images in which rare classes come more often than they are: a pure function of seed and position.

An epoch has as many positions as there are images, of which each class has a fixed number, its quota. The images of a
class come in turn: a permutation of them, then another one, on from where the epoch before ended. So all images of a
class are seen equally often (to one), and the classes of an epoch are counted, not drawn. Where in an epoch they stand
is a permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardsUsageError
from shards.order import Indices, order, raw_words

_DIGITS = 6  # of a quota that count: machines differ in the last ones of a power


def quotas(counts: Sequence[int], temperature: float | None) -> Indices:
    """How many images of each class an epoch has, in proportion to n^(1/T) for a class of n; int64, sums to sum(n).

    Args:
        counts: images of each class. A class without any gets none.
        temperature: T >= 1; 1: as many as there are; None: all classes alike.

    Raises:
        ShardsUsageError: there are no images, or T is below 1.
    """
    found = np.asarray(counts, dtype=np.int64)
    total = int(found.sum())
    if not total or (temperature is not None and temperature < 1):
        raise ShardsUsageError(f"quotas: {total} images, temperature={temperature}; needed: images, temperature >= 1")
    power = 0.0 if temperature is None else 1 / temperature
    weights = np.where(found > 0, np.maximum(found, 1).astype(np.float64) ** power, 0.0)
    exact = np.round(total * weights / weights.sum(), _DIGITS)
    quota: Indices = np.floor(exact).astype(np.int64)
    # What is left goes to the largest remainders; of equal ones to the first
    most = np.argsort(quota - exact, kind="stable")[: total - int(quota.sum())]
    quota[most] += 1
    return quota


class BalancedOrder:
    """The images at positions: (start, stop) -> int64 [stop - start]. See the module.

    Args:
        labels: the class of every image, int64 [N], 0 or more; below 0: the image is left out.
        temperature: as of `quotas`.
    """

    def __init__(self, labels: NDArray[np.int64], *, seed: int, temperature: float | None) -> None:
        self.seed = seed
        counts = np.bincount(labels[labels >= 0])
        self.quota = quotas(counts.tolist(), temperature)
        by_class = np.argsort(labels, kind="stable")[int((labels < 0).sum()) :]
        self._members = np.split(by_class, np.cumsum(counts)[:-1])
        self._epoch = lru_cache(maxsize=2)(self._images_of)  # a batch may straddle two

    def __call__(self, start: int, stop: int) -> Indices:
        count = int(self.quota.sum())
        places = order("full", seed=self.seed, count=count, global_batch=1, start=start, stop=stop)
        epochs = np.arange(start, stop) // count
        found = np.empty(stop - start, np.int64)
        for epoch in range(start // count, -(-stop // count)):
            here = epochs == epoch
            found[here] = self._epoch(epoch)[places[here]]
        return found

    def _images_of(self, epoch: int) -> Indices:
        """Every image that an epoch has, as often as it has it, by class."""
        return np.concatenate([self._turns(label, epoch) for label, quota in enumerate(self.quota) if quota])

    def _turns(self, label: int, epoch: int) -> Indices:
        """The images of a class that come in an epoch."""
        members, quota = self._members[label], int(self.quota[label])
        n, first, stop = len(members), epoch * quota, (epoch + 1) * quota
        begin, end = first // n * n, -(-stop // n) * n  # whole permutations
        words = raw_words("balanced", self.seed, label, begin, end).reshape(-1, n)
        turns: Indices = members[words.argsort(axis=1, kind="stable").ravel()]
        return turns[first - begin : stop - begin]
