"""How many of something, and which, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def counted(number: float | None, what: str, several: str | None = None) -> str:
    """`1 shard`, `1,797 images`, `2 entries` (`several` says so), `0.5 GPUs`, `? ranks` where nobody knows how many."""
    shown = "?" if number is None else f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {what if number == 1 else several or f'{what}s'}"


def numbered(what: str, numbers: Collection[int]) -> str:
    """`rank 3`, `ranks 0, 2`."""
    return f"{what if len(numbers) == 1 else f'{what}s'} {', '.join(map(str, numbers))}"


def some_of(names: Sequence[str], most: int = 3) -> str:
    """`cat, dog`; of more than `most` names these and how many more: `cat, dog, owl and 7 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
