"""What one process does for a bank of instances: pieces of work, each of which may be done by anybody, and twice.

extract    images start .. stop - 1 of a set -> their features, kept where a neighbour search keeps them
nearest    instances start .. stop - 1 -> their nearest, kept; reads the features of the bank that is being made
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cluster.world import World
from shards.dataset import ShardDataset
from spider.judge.embed.cache import FeatureCache, FeatureKey
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.features import Span, extract_features
from spider.judge.embed.images import NumberedImages
from spider.judge.embed.load import Spec, load_same_embedding
from spider.judge.instances.nearest import nearest_vectors

_REVISION = 1  # counts changes of what is kept that its names do not tell


@dataclass(frozen=True)
class BankPlan:
    """What every worker is told, once.

    Attributes:
        images: the sets by fingerprint: the images, and perhaps the same ones flipped.
        embedding: as `load_embedding` takes it.
        digest: of the embedding.
        cache: folder of the feature cache, on storage that all workers share.
    """

    images: Mapping[str, NumberedImages]
    embedding: Spec
    digest: str
    cache: Path

    def key(self, fingerprint: str, span: Span, output: str = "features") -> FeatureKey:
        """What the cache calls something of these images."""
        return FeatureKey(fingerprint, self.digest, *span, output)

    def nearest_key(self, fingerprint: str, span: Span, k: int) -> FeatureKey:
        """What it calls the nearest `k` of these images."""
        return self.key(fingerprint, span, f"nearest-{k}-{_REVISION}")


@dataclass(frozen=True)
class MappedVectors:
    """Where float16 vectors lie in a file."""

    file: str
    offset: int
    shape: tuple[int, int]

    def open(self) -> np.memmap[tuple[int, int], np.dtype[np.float16]]:
        """The vectors, read-only."""
        return np.memmap(self.file, np.float16, "r", self.offset, self.shape)


class BankWorker:
    """The methods are the pieces of work."""

    def __init__(self, plan: BankPlan) -> None:
        """On the GPU that this process sees, or on the CPU."""
        self._plan = plan
        self._cache = FeatureCache(plan.cache)
        self._world = World.single("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _network(self) -> Embedding:
        return load_same_embedding(self._plan.embedding, self._plan.digest, self._world.device)

    def extract(self, fingerprint: str, start: int, stop: int) -> None:
        """Extract features if they are not there."""
        if self._cache.has(self._plan.key(fingerprint, (start, stop))):
            return
        images = self._plan.images[fingerprint]
        from_files = isinstance(images, ShardDataset) and self._world.device.type == "cuda"
        extract_features(
            images,
            self._network,
            self._world,
            start=start,
            stop=stop,
            cache=self._cache,
            readers=torch.get_num_threads() if from_files else 0,
        )

    def nearest(self, fingerprint: str, vectors: MappedVectors, k: int, start: int, stop: int) -> None:
        """Find the nearest if they are not there."""
        key = self._plan.nearest_key(fingerprint, (start, stop), k)
        if not self._cache.has(key):
            numbers, radii = nearest_vectors(vectors.open(), start, stop, k, self._world.device)
            self._cache.store(key, numbers=numbers, radii=radii)
