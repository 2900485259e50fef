"""A sign of life from work that takes minutes, and a chance to have it abandoned.

    def extract_features(..., heartbeat: Heartbeat = silent):
        for each round of blocks:
            heartbeat()
            ...

Whoever starts the work says what a heartbeat does. It may raise, and the work passes that on: what it had is lost, what
it had put into a cache stays. It may also communicate, so the work calls it on all ranks at the same places: once per
round that all ranks do together, and before each part that is long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from untrusted.terminal import tell

Heartbeat = Callable[[], None]


def silent() -> None:
    """For work that nobody watches."""


@contextmanager
def told_to_go_on(what: str, *, every_s: float = 30.0) -> Iterator[None]:
    """Within, a line on stderr now and then: `still measuring iterations, 30 s`. For work that calls no heartbeat."""
    began = time.monotonic()
    with now_and_then(lambda: tell(f"still {what}, {time.monotonic() - began:.0f} s"), every_s):
        yield


@contextmanager
def now_and_then(do: Callable[[], None], every_s: float) -> Iterator[None]:
    """Within, `do` is done in a thread of its own, each time that so many seconds have passed.

    It is not done any more afterwards, but where an exception ends the block: that does not wait for it.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every_s):
            do()

    thread = threading.Thread(target=repeat, name="now_and_then", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
    thread.join()
