"""Which image stands at which position of an endless stream: pure functions of seed and position.

A stream is cut in epochs of exactly `count` positions, each a permutation of the dataset; batches straddle epochs.
Position p lies in slot p mod global_batch of its batch, and slot s belongs to rank s mod world. Nothing here knows the
world size: the same images stand in the same slots on 1 rank and on 1,000.

    full          one permutation of all images per epoch: the best shuffle, for data that is at hand
    shard_local   for data far away: a rank reads about 1/world of the bytes of an epoch.
                  Shards are permuted, and the images in each; the sequence is cut in global_batch runs of consecutive
                  images ("lanes"), one for each slot, which walks along it:

                      shards   |    3    |    0    |    4    |    1    |    2    |
                      lanes    |  0  |  1  |  2  |  3  |  4  |  5  |  6  |  7  |
                      slots       0     4     2     6     1     5     3     7
                      world 2  |------- rank 0 --------|------- rank 1 --------|

                  Lanes go to slots in digit-reversed order, so that the slots of a rank own neighbouring lanes.

Randomness is addressed: keys come from a hash of (purpose, seed, epoch), numbers from the raw output of Philox, which
numpy keeps the same for good (its `permutation` it does not).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardsUsageError
from untrusted.words import not_known

Order = Literal["full", "shard_local"]
Indices = NDArray[np.int64]

_EPOCHS_KEPT = 8  # a straddling batch needs two epochs; a source and a target stream, each with evaluation, need eight
_WORDS, _BLOCKS_KEPT = 1024, 64  # random words of a block, which is made at once, and how many blocks are kept


@dataclass(frozen=True)
class Slots:
    """The slots of one rank in a batch of `batch` images: slot s belongs to rank s mod `world`.

    Strided, not contiguous, so that groups of every k-th image hold the same images at any world size.

    Raises:
        ShardsUsageError: the batch does not divide by the world, or there is no such rank.
    """

    batch: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.world < 1 or self.batch % self.world:
            raise ShardsUsageError(f"global_batch={self.batch} does not divide by world={self.world}")
        if not 0 <= self.rank < self.world:
            raise ShardsUsageError(f"rank={self.rank} is not one of 0 .. {self.world - 1}")

    def at(self, position: int) -> range:
        """The positions of this rank's images in the batch that begins at `position`, in slot order."""
        return range(position + self.rank, position + self.batch, self.world)


def order(
    kind: Order,
    *,
    seed: int,
    count: int,
    global_batch: int,
    start: int,
    stop: int,
    shard_counts: Sequence[int] | None = None,
) -> Indices:
    """The dataset index at every position start .. stop - 1, int64 [stop - start].

    `shard_counts`, the images of each shard, is needed by "shard_local" and must sum to `count`.

    Raises:
        ShardsUsageError: an unknown kind, or numbers that cannot be.
    """
    if count < 1 or global_batch < 1 or not 0 <= start <= stop:
        raise ShardsUsageError(
            f"order: count={count}, global_batch={global_batch}, start={start}, stop={stop}; "
            "needed: count >= 1, global_batch >= 1, 0 <= start <= stop"
        )
    if kind not in get_args(Order):
        raise ShardsUsageError(f"order: {not_known(kind, get_args(Order))}")
    shards = tuple(shard_counts or ())
    if kind == "shard_local" and sum(shards) != count:
        raise ShardsUsageError(f"order: shard_local needs shard_counts that sum to {count}, got {sum(shards)}")

    pieces = []
    for epoch in range(start // count, -(-stop // count)):
        first = epoch * count
        positions = np.arange(max(start, first), min(stop, first + count))
        if kind == "full":
            pieces.append(_permutation(seed, epoch, count)[positions - first])
        else:
            pieces.append(_walk_lanes(seed, epoch, shards, global_batch, positions - first))
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def mirrored(seed: int, start: int, stop: int) -> NDArray[np.bool_]:
    """Whether the image at each position start .. stop - 1 is flipped left to right, bool [stop - start]."""
    return (raw_words("mirror", seed, 0, start, stop) >> np.uint64(63)).astype(np.bool_)


def raw_words(purpose: str, seed: int, number: int, start: int, stop: int) -> NDArray[np.uint64]:
    """Random words start .. stop - 1 of an endless row, one for each (purpose, seed, number), uint64 [stop - start]."""
    first = start // _WORDS
    blocks = range(first, max(first + 1, -(-stop // _WORDS)))
    words = np.concatenate([_words(purpose, seed, number, block) for block in blocks])
    return words[start - first * _WORDS : stop - first * _WORDS]


@lru_cache(maxsize=_BLOCKS_KEPT)
def _words(purpose: str, seed: int, number: int, block: int) -> NDArray[np.uint64]:
    """A block of a row of random words: whoever reads batch by batch asks for a few of them at a time."""
    words = _philox(purpose, seed, number, counter=block * _WORDS // 4).random_raw(_WORDS)  # four words per count
    words.setflags(write=False)
    return words


def subset_rank(seed: int, keys: Sequence[str]) -> Indices:
    """The numbers of `keys` from first to last chosen, int64 [len(keys)]: the first n are the subset of size n.

    A key's place depends on the seed and on itself alone, so subsets are nested, and adding a file moves no other.
    """
    digests = [hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=16).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=digests.__getitem__), dtype=np.int64)


@lru_cache(maxsize=_EPOCHS_KEPT)
def _permutation(seed: int, epoch: int, count: int) -> Indices:
    """Of range(count): the order that sorts `count` random words."""
    return _frozen(np.argsort(_philox("full", seed, epoch).random_raw(count), kind="stable"))


@lru_cache(maxsize=_EPOCHS_KEPT)
def _shard_sequence(seed: int, epoch: int, shard_counts: tuple[int, ...]) -> Indices:
    """A permutation of the dataset in which the images of a shard stand together."""
    philox = _philox("shard_local", seed, epoch)
    place_of_shard = np.argsort(np.argsort(philox.random_raw(len(shard_counts)), kind="stable"), kind="stable")
    place_of_image = np.repeat(place_of_shard, shard_counts)
    return _frozen(np.lexsort((philox.random_raw(len(place_of_image)), place_of_image)))


def _walk_lanes(
    seed: int, epoch: int, shard_counts: tuple[int, ...], global_batch: int, within_epoch: Indices
) -> Indices:
    """The indices at positions of one epoch, given relative to its first.

    Slots are counted from there too. An epoch that begins amid a batch gives each rank the lanes of another one, which
    are neighbours just as well.
    """
    count = sum(shard_counts)
    lane_of_slot = _lane_of_slot(global_batch)
    # A slot comes round floor or ceil of count/batch times, and its lane has just that many images
    slot_of_lane = np.argsort(lane_of_slot)
    lane_lengths = (count - slot_of_lane + global_batch - 1) // global_batch
    lane_starts = np.cumsum(lane_lengths) - lane_lengths
    slot, steps_along = within_epoch % global_batch, within_epoch // global_batch
    places: Indices = lane_starts[lane_of_slot[slot]] + steps_along
    return _shard_sequence(seed, epoch, shard_counts)[places]


@lru_cache(maxsize=_EPOCHS_KEPT)
def _lane_of_slot(global_batch: int) -> Indices:
    """Digit reversal in the mixed radix of the batch's prime factors, smallest first, int64 [global_batch].

    The least significant digits of a slot, which say whose it is, become the most significant ones of its lane. So for
    any world that is a product of the first few factors (1, 2, 4, ... for an even batch) a rank's lanes are neighbours.
    """
    rest, lane, radix = np.arange(global_batch), np.zeros(global_batch, np.int64), global_batch
    for factor in _prime_factors(global_batch):
        radix //= factor
        lane += rest % factor * radix
        rest //= factor
    return _frozen(lane)


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return [*factors, number] if number > 1 else factors


def _philox(purpose: str, seed: int, epoch: int, counter: int = 0) -> np.random.Philox:
    key = hashlib.blake2b(f"{purpose}/{seed}/{epoch}".encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(key, "little"), counter=counter)


def _frozen(array: Indices) -> Indices:
    array.setflags(write=False)  # it is shared by every caller of a cached function
    return array
