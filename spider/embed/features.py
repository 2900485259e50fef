"""Features of numbered images, the same whatever the batch, the world size and the range that was asked for.

Images go through the embedding in blocks of `BLOCK` consecutive indices: image i is always row i mod BLOCK of block
i div BLOCK, and rows that are not wanted or do not exist are zeros. A convolution's rounding depends on the shape of
its batch and on the row's place in it; so both are fixed. Block b is computed by rank b mod W and gathered in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spider.embed.cache import FeatureCache, FeatureKey, Features
from spider.embed.embedding import Embedding
from spider.embed.images import NumberedImages
from spider.errors import SpiderUsageError

if TYPE_CHECKING:
    from cluster.world import World

BLOCK = 64


def extract_features(
    images: NumberedImages,
    embedding: Embedding,
    world: World,
    *,
    start: int = 0,
    stop: int | None = None,
    cache: FeatureCache | None = None,
    progress: bool = False,
) -> Features:
    """Features of images start .. stop - 1 (all of them by default), float32 [stop - start, dim].

    Every rank gets the same array, and every world size the same one. With a cache, rank 0 reads and writes it.
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
) -> tuple[Features, Features]:
    """As `extract_features`, and the class logits, float32 [stop - start, classes]."""
    if not embedding.has_logits:
        raise SpiderUsageError(f"embedding {embedding.label} has no class logits; those that have: inception")
    features, logits = _extract(
        images, embedding, world, ("features", "logits"), embedding.features_and_logits, start, stop, cache, progress
    )
    return features, logits


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
) -> list[Features]:
    """One array [stop - start, dim of the output] per output, from the cache if it has them all."""
    stop = len(images) if stop is None else stop
    if not 0 <= start < stop <= len(images):
        raise SpiderUsageError(f"{images.name}: no images {start} to {stop}; it has {len(images)}")
    keys = [FeatureKey(images.fingerprint, embedding.digest, start, stop, output) for output in outputs]
    if cache is not None and (cached := _from_cache(cache, keys, world)) is not None:
        return cached

    arrays: list[Features] = []
    rounds = range(start // BLOCK, -(-stop // BLOCK), world.size)
    for b in tqdm(
        rounds, f"features of {images.name}", unit="block", disable=None if progress and world.is_main else True
    ):
        mine = embed(_block(images, b + world.rank, start, stop))
        # [W, BLOCK, dim] -> [W * BLOCK, dim]: images b * BLOCK and those that follow
        gathered = [world.all_gather(rows).flatten(0, 1).cpu().numpy() for rows in mine]
        arrays = arrays or [np.empty((stop - start, rows.shape[1]), np.float32) for rows in gathered]
        lo, hi = max(start, b * BLOCK), min(stop, (b + world.size) * BLOCK)
        for array, rows in zip(arrays, gathered, strict=True):
            array[lo - start : hi - start] = rows[lo - b * BLOCK : hi - b * BLOCK]

    if cache is not None and world.is_main:
        for key, array in zip(keys, arrays, strict=True):
            cache.store(key, array)
    return arrays


def _block(images: NumberedImages, b: int, start: int, stop: int) -> Tensor:
    """Block b as uint8 [BLOCK, C, H, W], zeros where an image is not wanted or does not exist."""
    lo, hi = max(start, b * BLOCK), min(stop, (b + 1) * BLOCK)
    if lo >= hi:  # the last round has fewer blocks than ranks, but a gather needs something from every rank
        return torch.zeros_like(images.batch(start, start + 1)).expand(BLOCK, -1, -1, -1)
    wanted = images.batch(lo, hi)
    block = wanted.new_zeros(BLOCK, *wanted.shape[1:])
    block[lo - b * BLOCK : hi - b * BLOCK] = wanted
    return block


def _from_cache(cache: FeatureCache, keys: list[FeatureKey], world: World) -> list[Features] | None:
    """The arrays of all the keys, read by rank 0 and the same on every rank; None if one is missing."""
    found = [cache.load(key) for key in keys] if world.is_main else []
    shapes = world.broadcast_json([None if array is None else list(array.shape) for array in found])
    if None in shapes:
        return None
    return [
        world.broadcast(torch.from_numpy(found[i]) if world.is_main else torch.empty(shape)).numpy()
        for i, shape in enumerate(shapes)
    ]
