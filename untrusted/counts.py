"""How many of something, in words."""

from __future__ import annotations


def counted(number: int | None, what: str, several: str | None = None) -> str:
    """`1 shard`, `1,797 images`, `2 entries` (`several` says so), `? ranks` where nobody knows how many."""
    shown = "?" if number is None else f"{number:,}"
    return f"{shown} {what if number == 1 else several or f'{what}s'}"
