"""Stop at the next step boundary, on all ranks at once: on Ctrl-C, when the machine is taken away, a terminal closed.

with StopRequest(world) as stop:
    while clock < total and not stop.agreed():
        step()
save()

What runs for minutes within a step asks in between, wherever all ranks are at the same place:

    stop.check()    # raises Stopped on all of them
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from cluster.world import World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heard() -> list[signal.Signals]:
    """The signals that ask this process to stop. A SIGHUP that is ignored does not: nohup lets a command live on."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]


class Stopped(Exception):
    """Work was abandoned on all ranks, because one was asked to stop."""


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a request to stop.

    After a request, whoever made it, SIGINT is KeyboardInterrupt: somebody presses Ctrl-C again and will not wait.
    SIGTERM and SIGHUP then change nothing, because schedulers and shells repeat them while a run saves.

    Signals reach the main thread of a process only; within another thread (a notebook's worker, an actor) nothing is
    installed, and this rank asks with `request` or is stopped by the others.

    Attributes:
        reason: what asked this rank to stop, such as "SIGTERM"; None if nothing did.
    """

    def __init__(self, world: World, notice: str = "") -> None:
        """`notice`: what the main process says on stderr at the first signal, while a long step goes on."""
        self.reason: str | None = None
        self._world = world
        self._notice = notice
        self._agreed = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in heard()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def request(self, reason: str) -> None:
        """Ask for a stop from this rank."""
        self.reason = self.reason or reason

    def agreed(self) -> bool:
        """Whether any rank was asked to stop, the same answer on every rank. Collective: call it at step boundaries."""
        if not self._agreed:
            self._agreed = self._world.any(self.reason is not None)
        return self._agreed

    def check(self) -> None:
        """Raise Stopped, on all ranks, if any was asked to stop. Collective."""
        if self.agreed():
            raise Stopped

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        name, first = signal.Signals(number).name, self.reason is None
        self.request(name)
        if first and self._notice and self._world.is_main:
            _say_at_once(f"{name}: {self._notice}")


def _say_at_once(line: str) -> None:
    """A line on stderr. Past its buffer and its locks, which whatever the signal interrupted may be at."""
    with suppress(OSError, ValueError, AttributeError):  # closed, or none
        number = sys.stderr.fileno()
        before = "\n" if os.isatty(number) else ""  # a bar that stands there stays
        os.write(number, f"{before}{line}\n".encode())
