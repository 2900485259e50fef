"""Which image stands where: exactly once per epoch, the same at any world size, from any position."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards.errors import ShardsUsageError
from shards.order import Slots, mirrored, order, raw_words, subset_rank

kinds = st.sampled_from(["full", "shard_local"])
shard_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)
batches = st.integers(1, 70)


def sequence(kind, shards, batch, start, stop, seed=0):
    return order(kind, seed=seed, count=sum(shards), global_batch=batch, start=start, stop=stop, shard_counts=shards)


@given(kinds, shard_sizes, batches, st.integers(0, 9))
def test_an_epoch_holds_every_image_once(kind, shards, batch, epoch):
    count = sum(shards)
    indices = sequence(kind, shards, batch, epoch * count, (epoch + 1) * count)
    assert sorted(indices) == list(range(count))


@given(kinds, shard_sizes, batches, st.data())
def test_any_stretch_is_a_stretch_of_the_whole(kind, shards, batch, data):
    stop = data.draw(st.integers(0, 3 * sum(shards)))
    start = data.draw(st.integers(0, stop))
    whole = sequence(kind, shards, batch, 0, stop)
    assert sequence(kind, shards, batch, start, stop).tolist() == whole[start:].tolist()


@given(st.sampled_from([1, 2, 3, 4, 6, 8, 12]), st.integers(1, 8))
def test_ranks_share_the_slots_of_a_batch(world, per_rank):
    batch = world * per_rank
    owned = [Slots(batch, rank, world).at(3 * batch) for rank in range(world)]
    assert sorted(np.concatenate(owned)) == list(range(3 * batch, 4 * batch))
    assert all(slot % world == rank for rank, own in enumerate(owned) for slot in own)


@pytest.mark.parametrize("kind", ["full", "shard_local"])
def test_epochs_and_seeds_differ(kind):
    shards = [25] * 8
    first, second = sequence(kind, shards, 16, 0, 200), sequence(kind, shards, 16, 200, 400)
    other = sequence(kind, shards, 16, 0, 200, seed=1)
    assert (first != second).mean() > 0.9
    assert (first != other).mean() > 0.9


def test_full_puts_any_image_anywhere():
    places = [int(np.flatnonzero(sequence("full", [20], 4, 0, 20, seed=seed) == 3)[0]) for seed in range(2000)]
    counts = np.bincount(places, minlength=20)
    assert ((counts - 100) ** 2 / 100).sum() < 50  # chi squared, 19 degrees of freedom: p = 1e-4


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_shard_local_reads_little_more_than_its_part(world, epoch):
    """Of 61 shards a rank touches 1/world, plus one where its lanes end amid a shard; epochs begin amid a batch."""
    shards, batch = [97] * 61, 64
    count = sum(shards)
    positions = np.arange(epoch * count, (epoch + 1) * count)
    shard = sequence("shard_local", shards, batch, positions[0], positions[-1] + 1) // 97
    for rank in range(world):
        assert len(np.unique(shard[positions % batch % world == rank])) <= 61 // world + 2


def test_shard_local_reads_a_part_with_fewer_shards_than_slots():
    """Ten shards, 64 slots: neighbouring lanes lie in the same shards, so locality does not need many shards."""
    indices = sequence("shard_local", [100] * 10, 64, 0, 1000)
    positions = np.arange(1000)
    for rank in range(2):
        touched = np.unique(indices[positions % 64 % 2 == rank] // 100)
        assert len(touched) <= 6


def test_shard_local_mixes_shards_in_a_batch():
    indices = sequence("shard_local", [100] * 64, 64, 0, 6400).reshape(-1, 64)
    assert min(len(np.unique(batch // 100)) for batch in indices) > 48


@given(st.integers(0, 3000), st.integers(0, 3000))
@example(1023, 2)
@example(1024, 0)
@example(1000, 2000)
def test_words_are_those_of_one_row_wherever_one_begins(start, length):
    """They are made in blocks, whose ends nobody may see."""
    key = hashlib.blake2b(b"mirror/7/3", digest_size=16).digest()
    row = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(start + length)
    assert raw_words("mirror", 7, 3, start, start + length).tolist() == row[start:].tolist()


@given(st.integers(0, 500), st.integers(0, 500))
def test_mirroring_belongs_to_the_position(start, length):
    assert mirrored(7, start, start + length).tolist() == mirrored(7, 0, start + length)[start:].tolist()


def test_half_of_the_positions_are_mirrored():
    flips = mirrored(0, 0, 10_000)
    assert abs(flips.mean() - 0.5) < 0.02
    assert (flips != mirrored(1, 0, 10_000)).mean() > 0.4


@given(st.sets(st.text(min_size=1), min_size=2, max_size=30), st.integers(0, 3))
def test_a_key_keeps_its_rank_among_others(keys, seed):
    """Subsets are nested and stable: removing a key moves no other."""
    keys = sorted(keys)
    ranked = [keys[number] for number in subset_rank(seed, keys)]
    removed = keys[1:]
    assert [removed[number] for number in subset_rank(seed, removed)] == [key for key in ranked if key != keys[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "random"}, "'random' is unknown; known: full, shard_local"),
        ({"kind": "shard_local", "shard_counts": [3]}, "sum to 10, got 3"),
        ({"start": 5, "stop": 4}, "start=5, stop=4"),
        ({"count": 0}, "count=0"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ShardsUsageError, match=message) as caught:
        order(**{"kind": "full", "seed": 0, "count": 10, "global_batch": 4, "start": 0, "stop": 4} | arguments)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("rank", "world", "message"),
    [
        (0, 4, "global_batch=10 does not divide by world=4"),
        (0, 0, "global_batch=10 does not divide by world=0"),
        (2, 2, "rank=2 is not one of 0 .. 1"),
        (-1, 2, "rank=-1 is not one of 0 .. 1"),
    ],
)
def test_slots_that_cannot_be_are_refused(rank, world, message):
    with pytest.raises(ShardsUsageError, match=message):
        Slots(10, rank, world)


def test_the_order_is_the_same_for_good():
    """A run resumed with a later version, or on another machine, goes on with the same images."""
    full = order("full", seed=3, count=1000, global_batch=8, start=2496, stop=2504)
    assert full.tolist() == [9, 312, 294, 956, 998, 658, 987, 970]
    assert sequence("shard_local", [30, 30, 40], 8, 296, 304, seed=3).tolist() == [91, 20, 94, 58, 13, 37, 15, 97]
    assert mirrored(3, 1000, 1016).astype(int).tolist() == [1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1]
    assert subset_rank(3, list("abcdef")).tolist() == [0, 1, 2, 3, 5, 4]
