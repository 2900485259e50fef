"""Lists as people write them, in options and in arguments of the same names: `fid,kid`, `0-3,7`, `-1,1`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spider.errors import SpiderUsageError


def names(text: str | Iterable[str]) -> list[str]:
    """`fid,kid` to ["fid", "kid"]; names that are a list already, as they are."""
    if not isinstance(text, str):
        return list(text)
    return [name.strip() for name in text.split(",") if name.strip()]


def whole_numbers(option: str, text: str | Sequence[int]) -> list[int]:
    """`0-3,7` to [0, 1, 2, 3, 7]; numbers as they are. Raises SpiderUsageError that names the option."""
    if not isinstance(text, str):
        return list(text)
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


def real_numbers(option: str, text: str | Sequence[float]) -> list[float]:
    """`-1,1` to [-1.0, 1.0]; numbers as they are. Raises SpiderUsageError that names the option."""
    if not isinstance(text, str):
        return list(text)
    try:
        found = [float(name) for name in names(text)]
    except ValueError:
        raise SpiderUsageError(f"{option} {text}: numbers with commas between them, such as -1,1") from None
    if not found:
        raise SpiderUsageError(f"{option} {text!r}: no number in it")
    return found
