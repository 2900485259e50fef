"""Saves that are written while training goes on."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import cluster.checkpoint
from cluster.checkpoint import CheckpointStore
from cluster.errors import ClusterError, MachineError
from cluster.snapshot import EncodedSnapshot, write_directory
from cluster.world import World
from tests.cluster.checkpoint.snapshots import same, snapshot_of, store_in, zero

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks


@contextmanager
def _disk(work: Callable[[], object]) -> Iterator[None]:
    """Have something done before every write."""

    def write(directory: Path, name: str, snapshot: EncodedSnapshot) -> int:
        work()
        return write_directory(directory, name, snapshot)

    with mock.patch.object(cluster.checkpoint, "write_directory", write):
        yield


def _fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_is_the_state_at_the_save(tmp_path: Path) -> None:
    snapshot, trained = snapshot_of(), threading.Event()
    with _disk(lambda: trained.wait(10)), store_in(tmp_path) as store:
        store.async_save("a", snapshot)
        assert store.names() == []
        zero(snapshot)
        trained.set()
        store.finish()
        assert same(store.load("a"), snapshot_of())
        assert store.written_bytes > 16 * 8 * 4
        assert store.written_s > 0


def test_saves_are_written_one_after_the_other(tmp_path: Path) -> None:
    under_way: list[list[str]] = []
    with _disk(lambda: (time.sleep(0.05), under_way.append(os.listdir(tmp_path)))), store_in(tmp_path) as store:
        for kimg in range(3):
            store.async_save(f"{kimg}-kimg", snapshot_of(float(kimg)))
        assert len(under_way) >= 2
    assert [sorted(name for name in names if not name.startswith(".")) for names in under_way] == [
        [],
        ["0-kimg"],
        ["0-kimg", "1-kimg"],
    ]
    assert all(sum(name.startswith(".tmp-") for name in names) == 1 for names in under_way)
    assert all(same(store.load(f"{kimg}-kimg"), snapshot_of(float(kimg))) for kimg in range(3))


def test_what_follows_a_save_finds_it_there(tmp_path: Path) -> None:
    found: list[list[str]] = []
    with _disk(lambda: time.sleep(0.05)), store_in(tmp_path) as store:
        store.async_save("a", snapshot_of(), then=lambda: found.append(store.names()))
    assert found == [["a"]]


def _save_on_a_disk_that_fills(world: World, directory: Path, end: str) -> tuple[type[Exception], str, list[str]]:
    """Rank 0 meets a full disk while training goes on; who is told, and what is there then."""
    store, called = CheckpointStore(directory, world), []
    store.save("1-kimg", snapshot_of(1.0))
    with _disk(_fill):
        store.async_save("2-kimg", snapshot_of(2.0), then=lambda: called.append("then"))
        with pytest.raises(ClusterError) as raised:
            store.finish() if end == "finish" else getattr(store, end)("3-kimg", snapshot_of(3.0))
    assert called == []
    names, entries = store.names(), [path.name for path in directory.iterdir()]
    assert names == entries
    world.barrier()
    store.finish()  # it is said once
    store.async_save("2-kimg", snapshot_of(2.0))
    store.finish()
    return type(raised.value), str(raised.value), names


@pytest.mark.parametrize("end", ["finish", "async_save", "save"])
def test_a_write_that_fails_is_raised_later_on_all_ranks(ranks: Ranks, tmp_path: Path, end: str) -> None:
    text = f"checkpoint {tmp_path / '2-kimg'} could not be written: No space left on device"
    assert ranks(2).run(_save_on_a_disk_that_fills, tmp_path, end) == [
        (MachineError, text, ["1-kimg"]),
        (MachineError, f"rank 0: {text}", ["1-kimg"]),
    ]
    assert MachineError.exit_code == 3
    assert store_in(tmp_path).names() == ["1-kimg", "2-kimg"]


def test_what_fails_after_a_write_is_raised_too(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.async_save("a", snapshot_of(), then=_fill)
    with pytest.raises(MachineError, match="a is written, but not what follows it: No space left on device"):
        store.finish()
    assert store.names() == ["a"]


def _fail_while_saving(world: World, directory: Path) -> list[str]:
    """On rank 0 alone, which must not wait for the others then."""
    store = CheckpointStore(directory, world)
    with _disk(lambda: time.sleep(0.1)):
        store.async_save("a", snapshot_of())
        if world.is_main:
            with pytest.raises(KeyError, match="a mistake"), store:
                raise KeyError("a mistake")
    return store.names() if world.is_main else []


def test_an_error_lets_the_write_end(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(2).run(_fail_while_saving, tmp_path)[0] == ["a"]


def test_a_write_that_fails_hides_no_other_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_in(tmp_path)
    with _disk(_fill):
        store.async_save("a", snapshot_of())
        with pytest.raises(KeyError, match="a mistake"), store:
            raise KeyError("a mistake")
    assert "warning: checkpoint" in capsys.readouterr().err
