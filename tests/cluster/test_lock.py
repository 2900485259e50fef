"""One process at a time in a directory."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cluster.errors import ClusterError, MachineError
from cluster.lock import LOCK, _held, alone_in, awaited_turn, in_turn, is_taken
from cluster.world import World
from tests.cluster.ranks import Ranks


def test_a_second_one_is_kept_out_until_the_first_has_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with alone_in(run, World.single()):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(ClusterError, match=f"run is in use by {holder}"), alone_in(run, World.single()):
            pass
    with alone_in(run, World.single()):
        pass


def test_who_is_in_can_be_asked(tmp_path: Path) -> None:
    assert is_taken(tmp_path) is False
    with alone_in(tmp_path, World.single()):
        assert is_taken(tmp_path) is True
    assert is_taken(tmp_path) is False
    (tmp_path / LOCK).write_text(f"process 1 on {socket.gethostname()}\n")  # killed
    assert is_taken(tmp_path) is False
    (tmp_path / LOCK).write_text("process 1 on elsewhere\n")  # killed, or still at it
    assert is_taken(tmp_path) is None


def test_asking_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: asking.close())
        with alone_in(tmp_path, World.single()):
            assert is_taken(tmp_path)


def test_a_machine_that_may_be_lost_is_given_time_to_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOCK).write_text("process 1 on elsewhere\n")
    with (tmp_path / LOCK).open() as lost:
        fcntl.flock(lost, fcntl.LOCK_EX)
        with monkeypatch.context() as patch:
            patch.setattr("cluster.lock._LOST_S", 0.2)
            with pytest.raises(MachineError, match="in use by process 1 on elsewhere"), _in(tmp_path):
                pass
        monkeypatch.setattr(time, "sleep", lambda seconds: lost.close())  # the file server forgets it
        with _in(tmp_path):
            assert is_taken(tmp_path)
    assert capfd.readouterr().err.count("in use by process 1 on elsewhere; waiting") == 2


def test_who_awaits_its_turn_names_any_holder_and_lets_go_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOCK).write_bytes(b"\xff\xfe")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with (tmp_path / LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt), awaited_turn(tmp_path, "images: are being packed"):
            pass
    assert "images: are being packed: waiting for" in capfd.readouterr().err
    assert str(tmp_path / LOCK) not in map(os.path.realpath, Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("turn", [lambda path: in_turn(path, 0.1), lambda path: awaited_turn(path, "x")])
def test_a_lock_that_is_no_file_is_refused(
    tmp_path: Path, turn: Callable[[Path], AbstractContextManager[bool]]
) -> None:
    os.mkfifo(tmp_path / LOCK)
    keeps_it_open = os.open(tmp_path / LOCK, os.O_RDWR)  # so that to open it waits for nobody
    with pytest.raises(ClusterError, match="not a file; remove it"), turn(tmp_path):
        pass
    os.close(keeps_it_open)


def test_a_lock_that_is_removed_again_and_again_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (tmp_path / LOCK).unlink())
    with pytest.raises(ClusterError, match="removed 100 times in a row"), in_turn(tmp_path, 0.1):
        pass


def test_a_storage_that_is_gone_at_the_end_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    def fails_in_turn() -> None:
        with in_turn(tmp_path, 0.1):
            [lock] = _held
            monkeypatch.setattr(lock, "truncate", stale)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        fails_in_turn()
    assert not _held


def _in(directory: Path) -> AbstractContextManager[None]:
    return alone_in(directory, World.single())


def _enter(world: World, directory: Path) -> str:
    try:
        with alone_in(directory, world):
            return "in"
    except ClusterError as error:
        return str(error)


def test_ranks_enter_together_or_not_at_all(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks(2).run(_enter, tmp_path) == ["in", "in"]
    with alone_in(tmp_path, World.single()):
        assert all("in use by" in answer for answer in ranks(2).run(_enter, tmp_path))


def test_a_forked_process_holds_no_lock(tmp_path: Path) -> None:
    """When its parent is killed, though it lives on itself."""
    (leave, told), (forked, tell) = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        with alone_in(tmp_path, World.single()):
            if os.fork() == 0:
                os.write(tell, b"x")
                os.read(leave, 1)
                os._exit(0)
            signal.pause()
    os.read(forked, 1)
    assert is_taken(tmp_path)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert is_taken(tmp_path) is False
    os.write(told, b"x")
    for end in (leave, told, forked, tell):
        os.close(end)
