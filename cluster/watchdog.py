"""A process that makes no step is ended, and says where it was.

    with Watchdog(folder / "rank-3.txt", timeout_s=600) as watchdog:
        while ...:
            step()
            watchdog.beat()

A rank that hangs holds up all others, each in a collective, and nobody would say why until somebody looks. The stacks
of all threads go to the file, and the process ends with exit code 1, also while another thread holds Python's lock or
the main one sits in the kernel: a thread of the interpreter that needs neither does it.
"""

from __future__ import annotations

import faulthandler
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_WAITING = ("distributed_c10d.py", 'cluster/world.py", line')  # on a GPU the host waits in `World.is_finite`
_REARM_S = 1.0  # arming starts a thread, which is too much for every step of a small network


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
        self._file: IO[str] | None = None
        self._armed_at = 0.0

    def __enter__(self) -> Self:
        if self._timeout_s is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w")  # now, because a process that hangs may open nothing
            self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._path.unlink(missing_ok=True)
            with suppress(OSError):  # not the last one
                self._path.parent.rmdir()

    def beat(self) -> None:
        """There was a step."""
        if self._file is not None and time.monotonic() - self._armed_at > _REARM_S:
            self._arm()

    def _arm(self) -> None:
        assert self._timeout_s is not None
        assert self._file is not None
        self._armed_at = time.monotonic()
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=self._file)


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
