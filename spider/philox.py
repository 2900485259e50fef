"""Philox4x32-10, the counter-based generator of Salmon et al. (2011, "Parallel random numbers: as easy as 1, 2, 3").

    words = philox(counter, key)     counter: four words, key: two words, of 32 bits each; ten rounds

In plain tensor operations on int64, whose products wrap around at 2^64. So the words are the same on every device. The
known answers of the authors' Random123 are in the tests.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Key = tuple[int, int]  # two words
Four = tuple[Tensor, Tensor, Tensor, Tensor]
Convert = Callable[[Tensor, Tensor, Tensor, Tensor], Four]

WORD = 1 << 32  # how many values a word has

_ROUNDS = 10
_MASK = WORD - 1
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85

_CHUNK = 1 << 14  # counters at once on a CPU: what a round touches fits in its cache


def words(key: Key, samples: Tensor, count: int, convert: Convert, dtype: torch.dtype) -> Tensor:
    """The first `count` words of each sample, converted.

    Word j of sample i is word j mod 4 of the counter (j div 4, 0, i mod 2^32, i div 2^32).

    Args:
        key: names the stream.
        samples: int64 [N], the samples' numbers, not negative.
        count: how many words a sample takes, at most 2^34.
        convert: four words of many counters, each int64 [M] of values 0 .. 2^32 - 1, to four numbers [M] for each.
        dtype: of the result.

    Returns:
        [N, count], on the samples' device.
    """
    blocks = -(-count // 4)
    drawn = torch.empty(len(samples) * blocks, 4, dtype=dtype, device=samples.device)
    chunk = _CHUNK if samples.device.type == "cpu" else max(1, len(drawn))
    for start in range(0, len(drawn), chunk):
        counter = torch.arange(start, min(start + chunk, len(drawn)), device=samples.device)
        row = counter // blocks
        block, sample = counter.sub_(row * blocks), samples[row]
        part = convert(*philox((block, torch.zeros_like(block), sample & _MASK, sample >> 32), key))
        for column, numbers in enumerate(part):
            drawn[start : start + chunk, column] = numbers
    return drawn.view(len(samples), 4 * blocks)[:, :count]


def philox(counter: Four, key: Key) -> Four:
    """Four words for every counter, each int64 [N] of values 0 .. 2^32 - 1. The counter's memory is used."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    p0, p1 = torch.empty_like(c0), torch.empty_like(c0)
    for _ in range(_ROUNDS):
        torch.mul(c0, _MULTIPLIERS[0], out=p0)
        torch.mul(c2, _MULTIPLIERS[1], out=p1)
        # The mask also removes what a shift of a negative number, or a whole product, has above 32 bits
        torch.bitwise_right_shift(p1, 32, out=c0).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK)
        torch.bitwise_right_shift(p0, 32, out=c2).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK)
        # The low words are the products themselves; the next round's mask, or the last one, cuts them
        c1, c3, p0, p1 = p1, p0, c1, c3
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1.bitwise_and_(_MASK), c2, c3.bitwise_and_(_MASK)
