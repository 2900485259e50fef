"""What commands print, and how the lists in their options are read. Under torchrun only rank 0 prints."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from spider.errors import SpiderUsageError


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """An answer, on stdout."""
    if is_main_process():
        print(text)


def say_json(answer: Any) -> None:
    """An answer for a program, on stdout."""
    say(json.dumps(answer, indent=2, allow_nan=False))


def complain(text: str) -> None:
    """An error, on stderr; also of other ranks, because rank 0 may not have it."""
    rank = "" if is_main_process() else f" (rank {os.environ['RANK']})"
    print(f"error{rank}: {text}", file=sys.stderr)


def names(text: str) -> list[str]:
    """`fid,kid` to ["fid", "kid"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def whole_numbers(option: str, text: str) -> list[int]:
    """`0-3,7` to [0, 1, 2, 3, 7]. Raises SpiderUsageError that names the option."""
    found: list[int] = []
    for part in names(text):
        first, dash, last = part.partition("-")
        try:
            found += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise SpiderUsageError(f"{option} {text}: {part!r} is neither a number nor a range such as 0-99") from None
    if not found:
        raise SpiderUsageError(f"{option} {text!r}: no number in it")
    return found


def real_numbers(option: str, text: str) -> list[float]:
    """`-1,1` to [-1.0, 1.0]. Raises SpiderUsageError that names the option."""
    try:
        found = [float(name) for name in names(text)]
    except ValueError:
        raise SpiderUsageError(f"{option} {text}: numbers with commas between them, such as -1,1") from None
    if not found:
        raise SpiderUsageError(f"{option} {text!r}: no number in it")
    return found
