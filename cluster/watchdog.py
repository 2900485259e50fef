"""A process that makes no step is ended, and says where it was.

    with Watchdog(folder / "rank-3.txt", timeout_s=600) as watchdog:
        while ...:
            step()
            watchdog.beat()

A rank that hangs holds up all others, each in a collective, and nobody would say why until somebody looks. The stacks
of all threads go to the file, a line goes to stderr, and the process ends with exit code 1, also while another thread
holds Python's lock or the main one sits in the kernel: a thread of the interpreter that needs neither does it. That
thread can write the stacks and end, no more. So it writes them to a pipe, at whose other end a shell waits, which makes
the file and says the line; it ends with this process.

The time counts for which a process is stopped (SIGSTOP, a suspended job): it made no step either.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_WAITING = ("distributed_c10d.py", 'cluster/world.py", line')  # on a GPU the host waits in `World.read`
# Nothing comes from a process that does not hang. A rank that ended may have taken the empty folder away
_KEEP = (
    'IFS= read -r first || exit 0; mkdir -p "${1%/*}"; '
    '{ printf "%s\\n" "$first"; cat; } > "$1"; printf "%s\\n" "$2" >&2'
)
_REARM_S = 1.0  # arming starts a thread, which is too much for every step of a small network

_pipes: set[IO[bytes]] = set()


def _let_go_in_child() -> None:
    """The shell waits for the end of its pipe, which a forked process would hold open beyond its parent's death."""
    while _pipes:
        _pipes.pop().close()


os.register_at_fork(after_in_child=_let_go_in_child)


class Watchdog:
    """Watches the main thread's steps. One in a process at a time."""

    def __init__(self, file: Path, timeout_s: float | None) -> None:
        """Nothing is watched before `with`.

        Args:
            file: for the stacks; its folder is made. Neither is left behind empty.
            timeout_s: the longest time between two beats; None: no limit.
        """
        self._path = file
        self._timeout_s = timeout_s
        self._keeper: subprocess.Popen[bytes] | None = None
        self._armed_at = 0.0

    def __enter__(self) -> Self:
        if self._timeout_s is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._keeper = self._start_keeper(self._timeout_s)  # now, because a process that hangs starts nothing
            _pipes.add(self._pipe)
            self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            faulthandler.cancel_dump_traceback_later()
            _pipes.discard(self._pipe)
            self._pipe.close()
            # Not left to the end of the pipe: a library may have forked without Python, and that process holds it open
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None
            with suppress(OSError):  # not the last one
                self._path.parent.rmdir()

    def beat(self) -> None:
        """There was a step."""
        if self._keeper is not None and time.monotonic() - self._armed_at > _REARM_S:
            self._arm()

    def _arm(self) -> None:
        assert self._timeout_s is not None
        self._armed_at = time.monotonic()
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=self._pipe)

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        return self._keeper.stdin

    def _start_keeper(self, timeout_s: float) -> subprocess.Popen[bytes]:
        said = f"{self._path.stem}: no step for {timeout_s:g} s (or stopped for as long): ended; stacks in {self._path}"
        return subprocess.Popen(
            ["sh", "-c", _KEEP, "sh", str(self._path), said],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is none of its business
        )


def stacks_file(rank: int) -> str:
    """The name of a rank's file, by which who started it looks for it."""
    return f"rank-{rank}.txt"


def hung_at(stacks: Path) -> str | None:
    """Where the main thread was, in a few words; None if the process did not hang: no file, or an empty one."""
    try:
        text = stacks.read_text(errors="replace")
    except OSError:
        return None
    # The main thread comes last, its innermost call first: File "/a/b/cluster/world.py", line 7 in any
    frames = [line.strip() for line in text.rpartition("most recent call first):")[2].splitlines() if line.strip()]
    if not frames:
        return None
    ours = [frame for frame in frames if "/site-packages/" not in frame and "/lib/python" not in frame]
    place, _, function = (ours or frames)[0].removeprefix('File "').partition(" in ")
    path, _, line = place.partition('", line ')
    return f"{function} ({'/'.join(Path(path).parts[-2:])}:{line})"


def waits_for_others(stacks: Path) -> bool:
    """Whether the main thread hung in a collective: then another rank is the cause."""
    try:
        text = stacks.read_text(errors="replace").rpartition("most recent call first):")[2]
    except OSError:
        return False
    return any(waiting in text for waiting in _WAITING)
