"""Child processes that end with this one, and with everything that they started.

A scheduler kills the process that it started, and on many clusters only that one. What it started in turn must not
stay behind on the node: it would hold GPUs and ports that the next job is given.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TAIL_BYTES = 4096
_TAIL_LINES = 20
_DRAIN_S = 5.0  # for the last of an output
_KILL_S = 10.0  # a process that is not gone after that long sits in the kernel, and is not waited for

_libc = ctypes.CDLL(None)


def adopt_orphans() -> None:
    """From now on a descendant whose parent dies becomes a child of this process, where `kill_all` finds it."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout: IO[bytes] | int,
    cwd: Path | None = None,
    deaf_to: Sequence[signal.Signals] = (),
) -> subprocess.Popen[bytes]:
    """Start a process that gets SIGTERM when this one dies. Call it from the main thread: the thread's end counts.

    Args:
        command: program and arguments.
        env: its whole environment.
        stdout: where its output and its errors go.
        cwd: its folder; None: that of this process.
        deaf_to: signals that it ignores, with its children, unless it says otherwise. A scheduler sends its own to
            every process of a job.
    """
    parent = os.getpid()

    def tie() -> None:
        for number in deaf_to:
            signal.signal(number, signal.SIG_IGN)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be asked to tell
            os.kill(os.getpid(), signal.SIGTERM)

    return subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT, preexec_fn=tie
    )


def end(child: subprocess.Popen[Any], grace_s: float) -> None:
    """SIGTERM, and SIGKILL if it has not ended by itself in `grace_s` seconds."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(grace_s)
        return
    child.kill()
    child.wait()


def kill_all() -> None:
    """SIGKILL to every descendant of this process, again until none is left. Their exit codes are lost."""
    deadline = time.monotonic() + _KILL_S
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):  # still another's child
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def descendants(ancestor: int) -> list[int]:
    """The processes that `ancestor` started, and those that they started; parents before children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                # PID (NAME) STATE PARENT ...: the name may hold anything, also spaces and brackets
                parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


class Output:
    """What a child prints: goes on to this process's output; its end is kept."""

    def __init__(self) -> None:
        self._command: subprocess.Popen[bytes] | None = None
        self._end = b""
        self._thread = threading.Thread(target=self._copy, daemon=True)

    @property
    def exit_code(self) -> int | None:
        """Of the command; None if it never began. A signal is negative."""
        return self._command.returncode if self._command else None

    def follow(self, command: subprocess.Popen[bytes]) -> None:
        self._command = command
        self._thread.start()

    def last_lines(self) -> list[str]:
        if self._command is not None:
            self._thread.join(_DRAIN_S)
        return last_lines(self._end)

    def _copy(self) -> None:
        assert self._command is not None
        assert self._command.stdout is not None
        while chunk := os.read(self._command.stdout.fileno(), 1 << 16):
            self._end = (self._end + chunk)[-_TAIL_BYTES:]
            with suppress(OSError):  # a full disk must not hold up who writes to it
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()


def last_lines(output: bytes) -> list[str]:
    """The end of what a process printed, for a report."""
    return output[-_TAIL_BYTES:].decode(errors="replace").splitlines()[-_TAIL_LINES:]
