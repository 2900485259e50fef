"""Files of one JSON object per line, which grow at their end.

A kill may cut the last row short, and a full disk one within. Rows tell of the past, so a damaged one must not hide the
others: it is left out, counted and said. A last row that is cut short is no damage: it is what a kill leaves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from untrusted.errors import UnreadableError
from untrusted.files import open_regular
from untrusted.json_data import parse_json
from untrusted.typed import checked

T = TypeVar("T")

MAX_BYTES = 4 << 30
MAX_ROW_BYTES = 1 << 20
TAIL_BYTES = 1 << 16  # in which the last rows are looked for


@dataclass(frozen=True)
class Rows(Generic[T]):
    """What a file holds.

    Attributes:
        path: the file.
        rows: those that are whole, in order.
        damaged: for each other one a line that names the file, the row (from 1) and what is wrong.
    """

    path: Path
    rows: list[T]
    damaged: list[str]

    @property
    def warning(self) -> str | None:
        """One line on all damage; None without any."""
        if not self.damaged:
            return None
        count = len(self.damaged)
        return f"{self.damaged[0]}; {f'{count} such rows are' if count > 1 else 'the row is'} left out"


def read_rows(path: Path, kind: type[T]) -> Rows[T]:
    """All rows of a file; none if it is not there.

    Raises UnreadableError if it is no regular file or larger than `MAX_BYTES`; OSError if the storage refuses.
    """
    found: Rows[T] = Rows(path, [], [])
    try:
        with open_regular(path, MAX_BYTES) as (file, _):
            number = 0
            while line := file.readline(MAX_ROW_BYTES):
                number += 1
                is_whole = line.endswith(b"\n")
                if not is_whole and len(line) == MAX_ROW_BYTES:  # what follows belongs to it
                    while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                        pass
                    found.damaged.append(f"{path}: row {number}: longer than {MAX_ROW_BYTES:,} bytes")
                elif line.strip():
                    _take(line, is_whole, f"{path}: row {number}", kind, found)
    except FileNotFoundError:
        pass
    return found


def newest_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """The whole rows at the end of a file, the newest first, without what is damaged; none if it is not there.

    Raises what `read_rows` raises.
    """
    try:
        with open_regular(path, MAX_BYTES) as (file, size):
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read(TAIL_BYTES)
    except FileNotFoundError:
        return
    lines = tail.split(b"\n")
    for line in reversed(lines if size <= TAIL_BYTES else lines[1:]):
        try:
            yield _parsed(line, str(path), kind)
        except UnreadableError:
            continue


def append_row(path: Path, line: str) -> None:
    """Add a line at the end, with one write. After a row that was cut short it begins a new line."""
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        is_torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        file.write(b"\n" * is_torn + f"{line}\n".encode())


def _take(line: bytes, is_whole: bool, where: str, kind: type[T], found: Rows[T]) -> None:
    try:
        found.rows.append(_parsed(line, where, kind))
    except UnreadableError as error:
        if is_whole:
            found.damaged.append(str(error))


def _parsed(line: bytes, where: str, kind: type[T]) -> T:
    value: Any = parse_json(line, where)
    return checked(value, kind, where)
