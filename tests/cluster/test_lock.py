"""One process at a time in a directory."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cluster.errors import ClusterError, MachineError
from cluster.lock import LOCK, alone_in, is_taken
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
