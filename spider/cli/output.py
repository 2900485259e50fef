"""What commands print, and which of several processes does. Under torchrun only rank 0 prints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from cluster.launcher import processes
from spider.errors import SpiderUsageError
from untrusted import terminal
from untrusted.terminal import tell


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def require_one_process(verb: str) -> None:
    """Refuse to do the same work, and to write the same files, once per rank."""
    if processes() > 1:
        about = " ".join(f"{name}={os.environ[name]}" for name in ("RANK", "WORLD_SIZE") if name in os.environ)
        raise SpiderUsageError(
            f"spider {verb} is one process, and here are several ({about}): start it without torchrun"
        )


@contextmanager
def if_interrupted(text: str) -> Iterator[None]:
    """What an interruption within comes to: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(text) from None


def say(text: str) -> None:
    """An answer, on stdout."""
    if is_main_process():
        print(text)


def say_json(answer: Any) -> None:
    """An answer for a program, on stdout."""
    say(json.dumps(answer, indent=2, allow_nan=False))


class Found(Protocol):
    """What a command has found, for a program and for a reader."""

    def as_json(self) -> Any:
        """Plain data."""

    def table(self) -> str:
        """A few lines."""


def say_found(found: Found, *, as_json: bool) -> None:
    """An answer, on stdout, in the form that is asked for."""
    if as_json:
        say_json(found.as_json())
    else:
        say(found.table())


def warn(text: str) -> None:
    """What may not be meant, on stderr."""
    if is_main_process():
        terminal.warn(text)


def complain(text: str) -> None:
    """An error, on stderr; also of other ranks, because rank 0 may not have it."""
    rank = "" if is_main_process() else f" (rank {os.environ['RANK']})"
    tell(f"error{rank}: {text}")
