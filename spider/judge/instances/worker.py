"""What one process does for a bank of instances: pieces of work, each of which may be done by anybody, and twice.

extract    images start .. stop - 1 of a set -> their features, kept where a neighbour search keeps them
nearest    instances start .. stop - 1 -> their nearest, kept; reads the features of the bank that is being made
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spider.judge.embed.cache import FeatureKey
from spider.judge.embed.features import Span
from spider.judge.extraction import ExtractionPlan, ExtractionWorker
from spider.judge.instances.nearest import nearest_vectors

_REVISION = 1  # counts changes of what is kept that its names do not tell


def nearest_key(plan: ExtractionPlan, fingerprint: str, span: Span, k: int) -> FeatureKey:
    """What the cache calls the nearest `k` of these images."""
    return plan.key(fingerprint, span, f"nearest-{k}-{_REVISION}")


@dataclass(frozen=True)
class MappedVectors:
    """Where float16 vectors lie in a file."""

    file: str
    offset: int
    shape: tuple[int, int]

    def open(self) -> np.memmap[tuple[int, int], np.dtype[np.float16]]:
        """The vectors, read-only."""
        return np.memmap(self.file, np.float16, "r", self.offset, self.shape)


class BankWorker(ExtractionWorker):
    """The methods are the pieces of work."""

    def nearest(self, fingerprint: str, vectors: MappedVectors, k: int, start: int, stop: int) -> None:
        """Find the nearest if they are not there."""
        key = nearest_key(self._plan, fingerprint, (start, stop), k)
        if not self._cache.has(key):
            numbers, radii = nearest_vectors(vectors.open(), start, stop, k, self._world.device)
            self._cache.store(key, numbers=numbers, radii=radii)
