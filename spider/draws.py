"""Addressed randomness: every draw is a function of (seed, stream, index), whoever makes it and whenever.

A stream is named by its use (`train.source`, `eval.source`, `penalty.mix`, ...) and indexed by sample: image position
in training, sample number in evaluation. Nothing is consumed, so a run is the same at any world size, and a resumed
run needs no generator state.

`normal`, `uniform` and `integers` make tensors for many samples at once, on any device, from the words of Philox
(`spider/philox.py`). The words are the same on every machine and device. So are uniform numbers and integers. A normal
is a word pair through Box-Muller in float64, rounded to float32 at the end: devices and versions may differ in the last
bit of about one number in ten million. `generator` is numpy's, for what works in numpy on the host.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from spider.philox import WORD, Convert, Four, Key, words

_COUNTER_STEP = 1 << 64  # each sample owns this many counters of numpy's generator; no draw is ever that long
_CPU = torch.device("cpu")


def normal(
    seed: int, stream: str, indices: Sequence[int], shape: tuple[int, ...], device: torch.device = _CPU
) -> Tensor:
    """Standard normal draws, float32 [len(indices), *shape].

    By Box and Muller (1958), so that a draw takes a fixed number of words: nothing is rejected. The largest magnitude
    is 6.7. A longer shape begins with the draws of a shorter one.
    """
    return _draw(seed, stream, indices, shape, device, _normals, torch.float32)


def uniform(
    seed: int, stream: str, indices: Sequence[int], shape: tuple[int, ...], device: torch.device = _CPU
) -> Tensor:
    """Uniform draws in [0, 1), multiples of 2^-24, float32 [len(indices), *shape]."""
    return _draw(seed, stream, indices, shape, device, _top_bits, torch.float32).mul_(2.0**-24)


def integers(
    seed: int, stream: str, indices: Sequence[int], shape: tuple[int, ...], stop: int, device: torch.device = _CPU
) -> Tensor:
    """Draws from 0 .. stop - 1, int64 [len(indices), *shape]. 1 <= stop <= 2^31.

    The probabilities of two values differ by at most 2^-32.
    """
    return _draw(seed, stream, indices, shape, device, _whole, torch.int64).mul_(stop) >> 32


def generator(seed: int, stream: str, index: int = 0) -> np.random.Generator:
    """numpy's generator at one address, for draws that are used in numpy. `index` >= 0 counts samples.

    With one numpy version it gives the same numbers on every machine. Its words stay the same for good. How numpy makes
    normals or permutations of them may change.
    """
    key = int.from_bytes(_digest(seed, stream), "little")
    return np.random.Generator(np.random.Philox(key=key, counter=index * _COUNTER_STEP))


def torch_seed(seed: int, stream: str) -> int:
    """A seed for torch's own generator, for the one use that torch draws for itself: initial weights."""
    return int(generator(seed, stream).integers(1 << 62))


@dataclass(frozen=True)
class Address:
    """Where the random numbers of a training batch stand. Asking twice for a use gives the same."""

    seed: int
    phase: str
    positions: Sequence[int]  # of the images, counted within the phase
    device: torch.device

    def normal(self, use: str, shape: tuple[int, ...], *, host: bool = False) -> Tensor:
        """Standard normal draws for a use that no other draw of the phase has, float32 [n, *shape].

        On the batch's device, or on the CPU if `host`: the same numbers.
        """
        return normal(self.seed, self.stream(use), self.positions, shape, self._device(host))

    def uniform(self, use: str, shape: tuple[int, ...], *, host: bool = False) -> Tensor:
        """Uniform draws in [0, 1), as above."""
        return uniform(self.seed, self.stream(use), self.positions, shape, self._device(host))

    def stream(self, use: str) -> str:
        """The name of the draws for a use."""
        return f"train.{self.phase}.{use}"

    def _device(self, host: bool) -> torch.device:
        return _CPU if host else self.device


@lru_cache(maxsize=256)
def _digest(seed: int, stream: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()


def _key(seed: int, stream: str) -> Key:
    digest = _digest(seed, stream)
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def _draw(
    seed: int,
    stream: str,
    indices: Sequence[int],
    shape: tuple[int, ...],
    device: torch.device,
    convert: Convert,
    dtype: torch.dtype,
) -> Tensor:
    if isinstance(indices, range):  # made where it is used, so that nothing is copied to the device
        samples = torch.arange(indices.start, indices.stop, indices.step, device=device)
    else:
        samples = torch.tensor(list(indices), dtype=torch.int64, device=device)
    return words(_key(seed, stream), samples, math.prod(shape), convert, dtype).reshape(len(samples), *shape)


def _whole(w0: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Four:
    return w0, w1, w2, w3


def _top_bits(w0: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Four:
    """24 of the 32 bits: as many as float32 holds."""
    return w0 >> 8, w1 >> 8, w2 >> 8, w3 >> 8


def _normals(w0: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Four:
    return *_box_muller(w0, w1), *_box_muller(w2, w3)


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent normals from two words."""
    exact = torch.float32 if first.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    # The first word is taken from (0, 1], whose logarithm is finite
    radius = first.to(exact).add_(1).mul_(1 / WORD).log_().mul_(-2).sqrt_()
    angle = second.to(exact).mul_(2 * math.pi / WORD)
    return radius * angle.cos(), angle.sin_().mul_(radius)
