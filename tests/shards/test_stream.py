"""Batches: every image once per epoch, the same on any number of ranks and workers, from any position."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsMachineError, ShardsUsageError
from shards.order import Slots, mirrored, order
from shards.pack import pack
from shards.parallel import run, start_pool, start_thread
from shards.stream import BatchStream

KINDS = ["full", "shard_local"]


@pytest.fixture(scope="module")
def shard_sizes(files, tmp_path_factory):
    """One set in shards of several sizes."""
    root = tmp_path_factory.mktemp("sizes")
    for shard_mb in (0.01, 0.05, 64):
        pack(files, root / f"{shard_mb}", shard_mb=shard_mb, progress=False, workers=1)
    return [ShardDataset(path) for path in sorted(root.iterdir())]


def take(dataset, number, position=0, **options):
    options = {"seed": 0, "global_batch": 12} | options
    with closing(BatchStream(dataset, **options).batches(position)) as batches:
        return list(islice(batches, number))


def merged(parts):
    """Batches of all ranks, rank after rank, as global batches: indices [number, slot], images [number, slot, ...]."""
    indices = np.stack([np.stack([batch.indices for batch in rank]) for rank in parts], 2)
    images = np.stack([np.stack([batch.images.numpy() for batch in rank]) for rank in parts], 2)
    number = len(parts[0])
    return indices.reshape(number, -1), images.reshape(number, -1, *images.shape[3:])


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_epoch_holds_every_image_once(shard_sizes, data):
    """For random ranks, workers, shard sizes and batches."""
    dataset = data.draw(st.sampled_from(shard_sizes))
    world, per_rank = data.draw(st.sampled_from([1, 2, 3, 4, 8])), data.draw(st.integers(1, 20))
    options = {
        "order": data.draw(st.sampled_from(KINDS)),
        "seed": data.draw(st.integers(0, 9)),
        "workers": data.draw(st.sampled_from([0, 0, 0, 0, 1, 2])),
    }
    batch = world * per_rank
    number = -(-2 * len(dataset) // batch)
    parts = [take(dataset, number, global_batch=batch, world=world, rank=r, **options) for r in range(world)]
    indices, images = merged(parts)
    for epoch in range(2):
        assert sorted(indices.reshape(-1)[epoch * 150 : (epoch + 1) * 150]) == list(range(150))
    assert (images == dataset.read_batch(indices.reshape(-1))[0].reshape(images.shape)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(packed, kind, workers):
    dataset = ShardDataset(packed)
    for rank in range(2):
        options = {"order": kind, "rank": rank, "world": 2, "mirror": True}
        alone, together = take(dataset, 30, **options), take(dataset, 30, workers=workers, **options)
        assert all(
            (a.images == b.images).all() and (a.labels == b.labels).all() for a, b in zip(alone, together, strict=True)
        )
        assert [batch.indices.tolist() for batch in alone] == [batch.indices.tolist() for batch in together]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 4])
def test_the_same_images_stand_in_the_same_slots_at_any_world_size(packed, kind, world):
    dataset = ShardDataset(packed)
    one = take(dataset, 20, order=kind, mirror=True)
    indices, images = merged([take(dataset, 20, order=kind, mirror=True, world=world, rank=r) for r in range(world)])
    assert (indices == np.stack([batch.indices for batch in one])).all()
    assert (images == np.stack([batch.images.numpy() for batch in one])).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_from_one_integer(packed, kind, workers):
    dataset = ShardDataset(packed)
    whole = take(dataset, 30, order=kind, mirror=True)
    rest = take(dataset, 10, position=20 * 12, order=kind, mirror=True, workers=workers)
    assert [batch.indices.tolist() for batch in rest] == [batch.indices.tolist() for batch in whole[20:]]
    assert all((a.images == b.images).all() for a, b in zip(rest, whole[20:], strict=True))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_shard_local_ranks_read_their_part_of_the_bytes(shard_sizes, world):
    """About 1/world of the bytes of an epoch, and no more than one shard more."""
    dataset = shard_sizes[0]  # 50 shards of three
    counts, sizes = dataset.index.shard_counts, [shard.bytes for shard in dataset.index.shards]
    shard_of_image = np.repeat(np.arange(len(counts)), counts)
    for rank in range(world):
        batches = take(dataset, 13, order="shard_local", world=world, rank=rank)
        indices = np.concatenate([batch.indices for batch in batches])[: 150 // world]
        read = sum(sizes[shard] for shard in np.unique(shard_of_image[indices]))
        assert read <= sum(sizes) / world + 3 * max(sizes)


def test_a_batch_is_what_it_says(packed):
    dataset = ShardDataset(packed)
    started = time.perf_counter()
    (batch,) = take(dataset, 1, position=24, rank=1, world=3)
    taken_s = time.perf_counter() - started
    wanted = order("full", seed=0, count=150, global_batch=12, start=24, stop=36)[Slots(12, 1, 3).at(0)]
    pixels, labels = dataset.read_batch(wanted)
    assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
    assert (batch.images.numpy() == pixels).all()
    assert (batch.labels.tolist(), batch.indices.tolist()) == (labels.tolist(), wanted.tolist())
    assert batch.positions.tolist() == [25, 28, 31, 34]
    assert 0 <= batch.wait_s <= taken_s


def test_mirroring_flips_left_to_right_where_the_position_says(packed):
    dataset = ShardDataset(packed)
    plain, flipped = take(dataset, 10), take(dataset, 10, mirror=True)
    flips = mirrored(0, 0, 120).reshape(10, 12)
    assert flips.any()
    for a, b, flip in zip(plain, flipped, flips, strict=True):
        assert (b.images[flip] == a.images[flip].flip(-1)).all()
        assert (b.images[~flip] == a.images[~flip]).all()


def test_the_trainers_random_numbers_are_left_alone(packed):
    before = torch.get_rng_state()
    take(ShardDataset(packed), 3, workers=1, mirror=True)
    take(ShardDataset(packed), 3, mirror=True)
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_stops_the_stream_with_its_name(packed, tmp_path, workers):
    copy = shutil.copytree(packed, tmp_path / "copy")
    with (copy / "000004.tar").open("r+b") as file:
        file.seek(560)
        file.write(b"damage")
    with pytest.raises(ShardsError, match=r"^\S*000004\.tar: damaged: image 0 of the shard: [^\n]*CRC-32[^\n]*$"):
        take(ShardDataset(copy), 13, workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_goes_away_stops_the_stream(packed, tmp_path, workers):
    copy = shutil.copytree(packed, tmp_path / "copy")
    dataset = ShardDataset(copy)
    (copy / "000004.tar").unlink()
    with pytest.raises(ShardsError, match=r"000004\.tar: cannot be opened: No such file"):
        take(dataset, 13, workers=workers)


def reading_processes():
    return multiprocessing.active_children()


def test_a_worker_killed_while_a_batch_is_awaited_stops_the_stream(packed):
    others = reading_processes()
    with closing(BatchStream(ShardDataset(packed), seed=0, global_batch=12, workers=1).batches(0)) as batches:
        next(batches)
        (reader,) = set(reading_processes()).difference(others)
        os.kill(reader.pid, signal.SIGSTOP)  # so that what comes next is waited for
        threading.Timer(0.5, reader.kill).start()
        with pytest.raises(ShardsMachineError, match=r"a reading process died; /dev/shm"):
            list(islice(batches, 50))


def test_a_worker_killed_between_two_batches_stops_the_stream(packed):
    """Asked when the pool has noticed and takes no more work."""
    others = reading_processes()
    with closing(BatchStream(ShardDataset(packed), seed=0, global_batch=12, workers=2).batches(0)) as batches:
        next(batches)
        first, second = set(reading_processes()).difference(others)
        first.kill()
        wait_until(lambda: not second.is_alive())  # the pool has ended it
        with pytest.raises(ShardsMachineError, match=r"a reading process died; /dev/shm"):
            next(batches)


NO_SHARED_MEMORY = r"/dev/shm, .*no variable moves it: .*\(data.workers=0; spider pack --workers 1\)"


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.ENOENT, errno.EACCES])
def test_processes_without_shared_memory_are_the_machines(packed, tmp_path, monkeypatch, code):
    """For packing and for reading: their locks are made there."""

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    batches = BatchStream(ShardDataset(packed), seed=0, global_batch=12, workers=2).batches(0)
    for begin in (lambda: next(batches), lambda: pack("builtin:digits", tmp_path, workers=2, progress=False)):
        with pytest.raises(ShardsMachineError, match=f"cannot be started: {os.strerror(code)}; {NO_SHARED_MEMORY}"):
            begin()


def test_a_batch_that_shared_memory_cannot_hold_is_the_machines(packed, monkeypatch):
    def refuse(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr("shards.stream._load", refuse)
    with (
        closing(BatchStream(ShardDataset(packed), seed=0, global_batch=12).batches(0)) as batches,
        pytest.raises(ShardsMachineError, match=f"cannot be handed over: .*No space left .*; {NO_SHARED_MEMORY}"),
    ):
        next(batches)


def wait_until(condition, timeout_s=300):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_workers_survive_the_signals_of_a_cluster(packed, number):
    """Sent by another process than the trainer, as Slurm does."""
    others = reading_processes()  # those of a stream before may be ending
    with closing(BatchStream(ShardDataset(packed), seed=0, global_batch=12, workers=1).batches(0)) as batches:
        next(batches)
        (reader,) = set(reading_processes()).difference(others)
        subprocess.run(["sh", "-c", f"kill -{number:d} {reader.pid}"], check=True)
        assert len(list(islice(batches, 50))) == 50


LEFT_OPEN = """
import sys
from shards.dataset import ShardDataset
from shards.stream import BatchStream
batches = BatchStream(ShardDataset(sys.argv[1]), seed=0, global_batch=12, workers=int(sys.argv[2])).batches(0)
next(batches)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_left_open_does_not_keep_the_program_from_ending(packed, workers):
    command = [sys.executable, "-c", LEFT_OPEN, str(packed), str(workers)]
    assert subprocess.run(command, timeout=300, check=False).returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_left_behind(packed, workers):
    def alive():
        return {*threading.enumerate(), *reading_processes()}

    before = alive()  # of which some may be ending
    take(ShardDataset(packed), 3, workers=workers)
    deadline = time.monotonic() + 300
    while alive() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert alive() - before == set()


LEFT_ALONE = """
import os, signal, sys
from multiprocessing import active_children
from shards.dataset import ShardDataset
from shards.stream import BatchStream
batches = BatchStream(ShardDataset(sys.argv[1]), seed=0, global_batch=12, workers=2).batches(0)
next(batches)
print(*(child.pid for child in active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_processes_of_a_killed_program_end(packed):
    killed = subprocess.run(
        [sys.executable, "-c", LEFT_ALONE, str(packed)], timeout=300, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in killed.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 300
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in workers)


def is_alive(pid):
    """Neither gone nor waiting for a parent to ask for its exit status."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter if it goes between opening and reading
        return False


@pytest.mark.parametrize(
    ("options", "position", "message"),
    [
        ({"global_batch": 10, "world": 4}, 0, "global_batch=10 does not divide by world=4"),
        ({"rank": 2, "world": 2}, 0, "rank=2 is not one of 0 .. 1"),
        ({}, 13, "position=13 is not a multiple of global_batch=12"),
        ({"workers": -1}, 0, "workers=-1"),
        ({"prefetch": -1}, 0, "prefetch=-1"),
        ({"order": "random"}, 0, "'random' is unknown"),
    ],
)
def test_what_cannot_be_is_refused(packed, options, position, message):
    with pytest.raises(ShardsUsageError, match=message) as caught:
        take(ShardDataset(packed), 1, position=position, **options)
    assert caught.value.exit_code == 2


def test_pinning_needs_an_accelerator(packed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ShardsUsageError, match="pin: there is no accelerator"):
        BatchStream(ShardDataset(packed), seed=0, global_batch=12, pin=True)


def test_threads_stay_on_the_accelerator_of_who_starts_them(monkeypatch):
    """As far as that can be told without one."""
    told = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.append((threading.current_thread().name, device)))
    with start_thread("reader") as thread:
        thread.submit(lambda: None).result()
    assert told == [("reader_0", 3)]


class Dropped:
    """In a cycle, so that only the garbage collector ends it; then it says in which process."""

    def __init__(self, told):
        self.told, self.itself = told, self

    def __del__(self):
        self.told.write_text(str(os.getpid()))


def _collect(shared, task):
    gc.collect()
    return os.getpid()


def test_a_worker_does_not_end_what_its_parent_dropped(tmp_path):
    """As the finaliser of another pool, which waits for a lock that nobody holds in the worker."""
    gc.disable()
    try:
        Dropped(tmp_path / "told")
        with start_pool(1, None) as pool:
            assert pool.submit(run, _collect, None).result() != os.getpid()
        assert not (tmp_path / "told").exists()
    finally:
        gc.enable()
    gc.collect()
    assert (tmp_path / "told").read_text() == str(os.getpid())
