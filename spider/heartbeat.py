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

from collections.abc import Callable

Heartbeat = Callable[[], None]


def silent() -> None:
    """For work that nobody watches."""
