"""Addressed randomness: every draw is a function of (seed, stream, index), whoever makes it and whenever.

A stream is named by its use (`train.source`, `eval.source`, `penalty.mix`, ...) and indexed by sample: image position
in training, sample number in evaluation. Nothing is consumed, so a run is the same at any world size, and a resumed
run needs no generator state. The numbers come from numpy's Philox, a counter-based generator: the same on every
machine, and whether the networks run on a CPU or a GPU. (Philox itself stays as it is for good, which is why
`shards.order` takes its words. How numpy makes normals and permutations of them may change; tests/spider/test_draws.py
would tell.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_COUNTER_STEP = 1 << 64  # each sample owns this many counters; no draw is ever that long


def generator(seed: int, stream: str, index: int = 0) -> np.random.Generator:
    """The generator at one address. `index` >= 0 counts samples within the stream."""
    return np.random.Generator(np.random.Philox(key=_key(seed, stream), counter=index * _COUNTER_STEP))


def normal(seed: int, stream: str, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal draws, float32 [len(indices), *shape], on the CPU."""
    return _stack(seed, stream, indices, shape, lambda rng, out: rng.standard_normal(out=out, dtype=np.float32))


def uniform(seed: int, stream: str, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Uniform draws in [0, 1), float32 [len(indices), *shape], on the CPU."""
    return _stack(seed, stream, indices, shape, lambda rng, out: rng.random(out=out, dtype=np.float32))


def torch_seed(seed: int, stream: str) -> int:
    """A seed for torch's own generator, for the one use that torch draws for itself: initial weights."""
    return int(generator(seed, stream).integers(1 << 62))


@lru_cache(maxsize=64)
def _key(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest(), "little")


def _stack(
    seed: int,
    stream: str,
    indices: Sequence[int],
    shape: tuple[int, ...],
    fill: Callable[[np.random.Generator, np.ndarray], object],
) -> Tensor:
    out = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(out, indices, strict=True):
        fill(generator(seed, stream, index), row)
    return torch.from_numpy(out)
