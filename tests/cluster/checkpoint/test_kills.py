"""A checkpoint is there, whole, or is not: at any kill, and on a full disk."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cluster.checkpoint import CheckpointStore, Snapshot
from cluster.errors import ClusterError
from cluster.world import World
from tests.cluster.checkpoint.snapshots import same, snapshot_of, store_in, zero

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks


def _in_child(work: Callable[[], None]) -> int:
    """Fork, work, and vanish; the child's process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def _kill_at_event(last: int) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that kills the process at its `last`-th touch of the file system."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "shutil.rmtree"):
            seen += 1
            if seen > last:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _save_and_prune(directory: Path) -> None:
    store_in(directory).save("2-kimg", snapshot_of(2.0))
    store_in(directory).prune(1)


def _save_and_prune_behind(directory: Path) -> None:
    snapshot = snapshot_of(2.0)
    with store_in(directory) as store:
        store.async_save("2-kimg", snapshot, then=lambda: store.prune(1))
        zero(snapshot)


def _kill_at_every_event(world: World, directory: Path, save: Callable[[Path], None]) -> list[str]:
    """Save beside an older checkpoint and prune that, killed at each touch of the disk in turn; what was left."""
    store_in(directory / "before").save("1-kimg", snapshot_of(1.0))
    outcomes = []
    for last in range(1000):
        folder = directory / str(last)
        shutil.copytree(directory / "before", folder)

        def save_and_die(folder: Path = folder, last: int = last) -> None:
            sys.addaudithook(_kill_at_event(last))
            save(folder)

        _, status = os.waitpid(_in_child(save_and_die), 0)
        for name in store_in(folder).names():
            assert same(store_in(folder).load(name), snapshot_of(float(name[0])))
        outcomes.append(",".join(store_in(folder).names()))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return outcomes
    raise AssertionError("the save never came to its end")


@pytest.mark.parametrize("save", [_save_and_prune, _save_and_prune_behind])
def test_a_kill_at_any_touch_of_the_disk_leaves_the_old_set_or_the_new_one(
    ranks: Ranks, tmp_path: Path, save: Callable[[Path], None]
) -> None:
    (outcomes,) = ranks(1).run(_kill_at_every_event, tmp_path, save, timeout_s=600)
    assert list(dict.fromkeys(outcomes)) == ["1-kimg", "1-kimg,2-kimg", "2-kimg"]
    assert outcomes.count("1-kimg") >= 6  # A directory, two files of tensors, the state, the manifest, the rename.
    left_over = next(path for path in tmp_path.glob("*/.tmp-2-kimg-*"))
    store_in(left_over.parent).save("3-kimg", snapshot_of(3.0))
    assert not left_over.exists()


def _kill_at_random(world: World, directory: Path, trials: int) -> None:
    """Kill children that save one checkpoint after the other, and look at what each of them left."""
    pick = random.Random(0)
    for trial in range(trials):
        folder, said = directory / str(trial), directory / f"{trial}.saved"
        said.touch()

        def save_for_ever(folder: Path = folder, said: Path = said) -> None:
            with open(said, "w", buffering=1) as note:
                for kimg in range(10**6):
                    store_in(folder).save(f"{kimg}-kimg", snapshot_of(float(kimg)))
                    note.write(f"{kimg}\n")

        pid = _in_child(save_for_ever)
        while not said.read_text():
            time.sleep(0.001)
        time.sleep(pick.uniform(0.0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        store, promised = store_in(folder), len(said.read_text().splitlines())
        assert promised <= len(store.names()) <= promised + 1
        for kimg, name in enumerate(store.names()):
            assert name == f"{kimg}-kimg"
            assert same(store.load(name), snapshot_of(float(kimg)))


def test_a_kill_at_a_random_moment_leaves_only_whole_checkpoints(ranks: Ranks, tmp_path: Path) -> None:
    ranks(1).run(_kill_at_random, tmp_path, 50, timeout_s=600)
    assert len(list(tmp_path.glob("*/.tmp-*"))) > 5, "hardly any kill hit a save"


def _save_on_a_full_disk(world: World, directory: Path) -> tuple[str, list[str], list[str]]:
    """A limit on the size of files stands for a disk that is full in the middle of a file."""
    store = CheckpointStore(directory, world)
    store.save("1-kimg", snapshot_of())
    large = Snapshot({"generator": {"weight": torch.zeros(10_000)}}, {})
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.is_main:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ClusterError) as raised:
            store.save("2-kimg", large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    found = store.names(), [path.name for path in directory.iterdir()]
    world.barrier()
    store.save("2-kimg", large)
    return str(raised.value), *found


def test_a_full_disk_is_named_on_all_ranks_and_leaves_the_old_set(ranks: Ranks, tmp_path: Path) -> None:
    for text, names, entries in ranks(2).run(_save_on_a_full_disk, tmp_path):
        assert f"checkpoint {tmp_path / '2-kimg'} could not be written: File too large" in text
        assert names == entries == ["1-kimg"]
    assert store_in(tmp_path).names() == ["1-kimg", "2-kimg"]
