"""Plain tables and quantities for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from untrusted.terminal import one_line


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of the same length with their columns lined up, two spaces between; numbers to the right, text to the left.

    A column whose entries below the first row all begin with a digit or a sign, or are empty, is one of numbers.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell in ("", "-") or cell[0] in "+-0123456789" for cell in column[1:]) for column in columns]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def entries(rows: Sequence[Sequence[str]]) -> str:
    """Names and their values, one entry a line, both to the left."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{one_line(name):<{width}}  {one_line(value)}" for name, value in rows)


def setting(value: Any) -> str:
    """The value of a key: `true`, `0.5`, `-` where there is no such key."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def duration(seconds: float, *, fine: bool = False) -> str:
    """`42 s`, `3.5 minutes`, `7.2 hours`, `3.1 days`, `18.6 years`; where it is `fine` also `0.12 s`."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.2g} s" if fine and seconds < 9.95 else f"{seconds:.0f} s"


def speed(img_per_s: float) -> str:
    """`1,234 img/s`, `7.5 img/s`, `0.02 img/s`; of what is slower still `6.1 img/hour`."""
    if img_per_s and img_per_s < 0.01:
        return f"{3600 * img_per_s:.2g} img/hour"
    return f"{img_per_s:,.0f} img/s" if img_per_s >= 9.95 else f"{img_per_s:.2g} img/s"


def size(count: float) -> str:
    """`512 bytes`, `1.4 MB`, `37 GB`."""
    for unit, bytes_each in (("TB", 2**40), ("GB", 2**30), ("MB", 2**20), ("KB", 2**10)):
        if count >= bytes_each:
            number = count / bytes_each
            return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{count:.0f} bytes"
