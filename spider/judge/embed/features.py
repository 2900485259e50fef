"""Features of numbered images, the same whatever the batch, the world size and the range that was asked for.

Images go through the embedding in blocks of `BLOCK` consecutive indices: image i is always row i mod BLOCK of block
i div BLOCK, and rows that are not wanted or do not exist are zeros. A convolution's rounding depends on the shape of
its batch and on the row's place in it; so both are fixed. Blocks are shared among the ranks and gathered in order.

A cache keeps them in pieces of `PIECE` images, each written as soon as it is whole: what is stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from shards.progress import Bar
from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import FeatureCache, FeatureKey, Features
from spider.judge.embed.efficientnet import EfficientNetEmbedding
from spider.judge.embed.embedding import WITH_LOGITS, Embedding
from spider.judge.embed.images import NumberedImages
from spider.judge.embed.memory import kept_memory
from spider.precision import exact_float32
from spider.threads import ahead, in_order

if TYPE_CHECKING:
    from cluster.world import World

BLOCK = 64
PIECE = 16 * BLOCK
FEATURES_AND_STAGE = ("features", "stage")  # names of the cache

Span = tuple[int, int]  # images first .. last + 1


def extract_features(
    images: NumberedImages,
    embedding: Embedding,
    world: World,
    *,
    start: int = 0,
    stop: int | None = None,
    cache: FeatureCache | None = None,
    readers: int = 0,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> Features:
    """Features of images start .. stop - 1 (all of them by default), float32 [stop - start, dim].

    Every rank gets the same array, and every world size the same one. With a cache, rank 0 reads and writes it.
    `readers` threads read blocks ahead, for images that are files; 0: images are read or made when it is their turn,
    on a CPU by the threads that embed them, so by several at once.
    `heartbeat` is called before every round of blocks, and every piece from the cache (`spider.heartbeat`).
    """
    (features,) = _extract(
        images,
        embedding,
        world,
        ("features",),
        lambda batch: (embedding.features(batch),),
        start,
        stop,
        cache,
        progress,
        heartbeat,
        readers,
    )
    return features


def extract_features_and_logits(
    images: NumberedImages,
    embedding: Embedding,
    world: World,
    *,
    start: int = 0,
    stop: int | None = None,
    cache: FeatureCache | None = None,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> tuple[Features, Features]:
    """As `extract_features`, and the class logits, float32 [stop - start, classes]."""
    if not embedding.has_logits:
        raise SpiderUsageError(f"embedding {embedding.label} has no class logits; those that have: {WITH_LOGITS}")
    features, logits = _extract(
        images,
        embedding,
        world,
        ("features", "logits"),
        embedding.features_and_logits,
        start,
        stop,
        cache,
        progress,
        heartbeat,
    )
    return features, logits


def extract_features_and_stage(
    images: NumberedImages,
    embedding: EfficientNetEmbedding,
    world: World,
    *,
    start: int = 0,
    stop: int | None = None,
    cache: FeatureCache | None = None,
    readers: int = 0,
) -> tuple[Features, Features]:
    """As `extract_features`, and the last stage of EfficientNet-Lite0, averaged, float32 [stop - start, 320]."""
    features, stages = _extract(
        images,
        embedding,
        world,
        FEATURES_AND_STAGE,
        embedding.features_and_stage,
        start,
        stop,
        cache,
        False,
        silent,
        readers,
    )
    return features, stages


def _extract(
    images: NumberedImages,
    embedding: Embedding,
    world: World,
    outputs: tuple[str, ...],
    embed: Callable[[Tensor], tuple[Tensor, ...]],
    start: int,
    stop: int | None,
    cache: FeatureCache | None,
    progress: bool,
    heartbeat: Heartbeat,
    readers: int = 0,
) -> list[Features]:
    """One array [stop - start, dim of the output] per output, as far as possible from the cache."""
    stop = len(images) if stop is None else stop
    if not 0 <= start < stop <= len(images):
        raise SpiderUsageError(f"{images.name}: no images {start} to {stop}; it has {len(images)}")
    spans = pieces_of(start, stop)
    keys = {
        span: [FeatureKey(images.fingerprint, embedding.digest, *span, output) for output in outputs] for span in spans
    }
    found = {} if cache is None else _from_cache(cache, keys, world, heartbeat)
    missing = [span for span in spans if span not in found]
    for span, arrays in _computed(images, world, embed, missing, readers, progress, heartbeat):
        found[span] = arrays
        if cache is not None and world.is_main:
            for key, rows in zip(keys[span], arrays, strict=True):
                cache.store(key, rows=rows)
    return [np.concatenate(column) for column in zip(*(found[span] for span in spans), strict=True)]


def pieces_of(start: int, stop: int) -> list[Span]:
    """The pieces in which images start .. stop - 1 are kept: cut where an image's number is a multiple of `PIECE`."""
    cuts = [start, *range((start // PIECE + 1) * PIECE, stop, PIECE), stop]
    return list(pairwise(cuts))


def _computed(
    images: NumberedImages,
    world: World,
    embed: Callable[[Tensor], tuple[Tensor, ...]],
    spans: list[Span],
    readers: int,
    progress: bool,
    heartbeat: Heartbeat,
) -> Iterator[tuple[Span, list[Features]]]:
    """Every piece with its arrays, one per output, as soon as its last block has been through the embedding."""
    blocks = [(b, span) for span in spans for b in range(span[0] // BLOCK, -(-span[1] // BLOCK))]
    parts: list[list[Features]] = []
    rounds = range(0, len(blocks), world.size)
    # The last round may have fewer blocks than ranks; a gather needs something from every rank.
    mine = [blocks[min(r + world.rank, len(blocks) - 1)] for r in rounds]

    def made(block: tuple[int, Span]) -> tuple[Tensor, ...]:
        return embed(_block(images, *block))

    with kept_memory(world.device), exact_float32():
        if readers:
            embedded = ahead(embed, _read(images, mine, readers), world.device)
        else:  # Threads that embed make images too: a generator in the caller's, on one thread, would hold them up
            embedded = ahead(made, mine, world.device)
        shown = progress and world.is_main
        for r in Bar(iterable=rounds, desc=f"features of {images.name}", unit="block", leave=None, shown=shown):
            heartbeat()
            gathered = [world.all_gather(rows).cpu().numpy() for rows in next(embedded)]  # [W, BLOCK, dim]
            for rank, (b, (start, stop)) in enumerate(blocks[r : r + world.size]):
                wanted = slice(max(start - b * BLOCK, 0), stop - b * BLOCK)
                parts.append([rows[rank, wanted] for rows in gathered])
                if (b + 1) * BLOCK >= stop:
                    yield (start, stop), [np.concatenate(column) for column in zip(*parts, strict=True)]
                    parts = []


def _read(images: NumberedImages, blocks: Sequence[tuple[int, Span]], readers: int) -> Iterator[Tensor]:
    """The blocks in order, each reader a block ahead."""
    with ThreadPoolExecutor(readers) as pool:
        yield from in_order(pool, lambda block: _block(images, *block), blocks, readers)


def _block(images: NumberedImages, b: int, span: Span) -> Tensor:
    """Block b as uint8 [BLOCK, C, H, W], zeros where an image is not in the piece."""
    lo, hi = max(span[0], b * BLOCK), min(span[1], (b + 1) * BLOCK)
    wanted = images.batch(lo, hi)
    block = wanted.new_zeros(BLOCK, *wanted.shape[1:])
    block[lo - b * BLOCK : hi - b * BLOCK] = wanted
    return block


def _from_cache(
    cache: FeatureCache, keys: dict[Span, list[FeatureKey]], world: World, heartbeat: Heartbeat
) -> dict[Span, list[Features]]:
    """The pieces that are there whole, read by rank 0 and the same on every rank."""
    loaded: dict[Span, list[Features]] = {}
    for span, of_span in keys.items():
        heartbeat()
        if not world.is_main:
            continue
        arrays = [cache.load(key) for key in of_span]
        if all(array is not None and len(array["rows"]) == span[1] - span[0] for array in arrays):
            loaded[span] = [array["rows"] for array in arrays if array is not None]
    if world.size == 1:
        return loaded
    shapes = world.broadcast_json([[span, [rows.shape for rows in arrays]] for span, arrays in loaded.items()])
    for (start, stop), of_span in shapes:
        heartbeat()
        loaded[start, stop] = [
            world.broadcast(torch.from_numpy(loaded[start, stop][i]) if world.is_main else torch.empty(shape)).numpy()
            for i, shape in enumerate(of_span)
        ]
    return loaded
