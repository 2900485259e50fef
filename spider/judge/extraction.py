"""Images through a network once, by workers: what every piece of work keeps, and what was kept, in order.

Features are kept where a neighbour search keeps them, so each finds what the other has made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from cluster.workers import Piece, Workers
from cluster.world import World
from shards.dataset import ShardDataset
from spider.errors import SpiderError
from spider.judge.embed.cache import Arrays, FeatureCache, FeatureKey
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.features import Span, extract_features, pieces_of
from spider.judge.embed.images import NumberedImages
from spider.judge.embed.load import Spec, load_same_embedding
from spider.judge.pieces import do_pieces, require_seen


@dataclass(frozen=True)
class ExtractionPlan:
    """What every worker is told, once.

    Attributes:
        images: the sets by fingerprint.
        embedding: as `load_embedding` takes it.
        digest: of the embedding.
        cache: folder of the feature cache, on storage that all workers share.
        outputs: what is kept of every image, by the names of the cache.
    """

    images: Mapping[str, NumberedImages]
    embedding: Spec
    digest: str
    cache: Path
    outputs: tuple[str, ...] = ("features",)

    def key(self, fingerprint: str, span: Span, output: str) -> FeatureKey:
        """What the cache calls something of these images."""
        return FeatureKey(fingerprint, self.digest, *span, output)

    def keys(self, fingerprint: str, span: Span) -> tuple[FeatureKey, ...]:
        """What it calls all outputs of these images."""
        return tuple(self.key(fingerprint, span, output) for output in self.outputs)


class ExtractionWorker:
    """The methods are the pieces of work, each of which may be done by anybody, and twice."""

    extracts: ClassVar[Any] = staticmethod(extract_features)  # that, or what gives all outputs of a plan

    def __init__(self, plan: ExtractionPlan) -> None:
        """On the GPU that this process sees, or on the CPU."""
        self._plan = plan
        self._cache = FeatureCache(plan.cache)
        self._world = World.single("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _network(self) -> Embedding:
        return load_same_embedding(self._plan.embedding, self._plan.digest, self._world.device)

    def extract(self, fingerprint: str, start: int, stop: int) -> None:
        """Images start .. stop - 1 of a set through the network, if what is kept of them is not there."""
        if all(self._cache.has(key) for key in self._plan.keys(fingerprint, (start, stop))):
            return
        images = self._plan.images[fingerprint]
        from_files = isinstance(images, ShardDataset) and self._world.device.type == "cuda"
        self.extracts(
            images,
            self._network,
            self._world,
            start=start,
            stop=stop,
            cache=self._cache,
            readers=torch.get_num_threads() if from_files else 0,
        )


class KeptPieces:
    """Pieces of work that are done once, whoever has done them, and what they kept.

    Args:
        progress: show bars.
    """

    def __init__(self, plan: ExtractionPlan, workers: Workers, *, progress: bool) -> None:
        self._plan, self._workers, self._progress = plan, workers, progress
        self._cache = FeatureCache(plan.cache)

    def of_images(self, images: NumberedImages, words: str) -> Iterator[tuple[Span, list[Arrays]]]:
        """All outputs of all images, in their order; `words` say what they are."""
        pieces = {
            Piece(f"{words}, images {span[0]} to {span[1] - 1}", "extract", (images.fingerprint, *span)):
            self._plan.keys(images.fingerprint, span)
            for span in pieces_of(0, len(images))
        }  # fmt: skip
        return self.done(words, pieces)

    def done(self, title: str, pieces: Mapping[Piece, tuple[FeatureKey, ...]]) -> Iterator[tuple[Span, list[Arrays]]]:
        """What the pieces of work keep, in their order, when all that was not kept is done.

        Args:
            pieces: with what the cache calls that: entries whose arrays have a row for each image.
        """
        missing = {piece: keys for piece, keys in pieces.items() if not all(map(self._cache.has, keys))}
        sizes = {piece: keys[0].stop - keys[0].start for piece, keys in missing.items()}
        for done in do_pieces(self._workers, [*missing], title, "image", sizes, shown=self._progress):
            for key in missing[done.piece]:
                require_seen(self._cache, key)
        for piece, keys in pieces.items():
            yield (keys[0].start, keys[0].stop), [self._kept(key, piece) for key in keys]

    def _kept(self, key: FeatureKey, piece: Piece) -> Arrays:
        """What a piece of work has kept; what is damaged is made again. Raises SpiderError: it is damaged again."""
        for attempt in range(2):
            kept = self._cache.load(key)
            if kept is not None and all(len(rows) == key.stop - key.start for rows in kept.values()):
                return kept
            if attempt == 0:
                self._cache.discard(key)
                for _ in do_pieces(self._workers, [piece], piece.name, "piece"):
                    pass
        raise SpiderError(f"{key.path(self._cache.root)}: damaged as soon as it is written")
