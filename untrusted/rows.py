"""Files of one JSON object per line, which grow at their end.

A kill may cut the last row short, and a full disk one within. Rows tell of the past, so a damaged one must not hide the
others: it is left out, counted and said. A last row that is cut short is no damage: it is what a kill leaves. A file of
many damaged rows is no file of rows, and is refused before it takes long to read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from untrusted.errors import UnreadableError
from untrusted.files import open_regular
from untrusted.json_data import parse_json
from untrusted.typed import checked

S = TypeVar("S")
T = TypeVar("T")

MAX_BYTES = 4 << 30
MAX_ROW_BYTES = 1 << 20
MAX_DAMAGED = 1000
TAIL_BYTES = 1 << 16  # in which the last rows are looked for


@dataclass(frozen=True)
class Rows(Generic[T]):
    """What a file holds.

    Attributes:
        path: the file.
        rows: those that are whole, in order.
        damaged: how many others there are.
        first_damage: the first of those in one line: the file, the row (from 1) and what is wrong; None without any.
    """

    path: Path
    rows: list[T]
    damaged: int = 0
    first_damage: str | None = None

    @property
    def warning(self) -> str | None:
        """One line on all damage; None without any."""
        if self.first_damage is None:
            return None
        rest = f"{self.damaged:,} such rows are" if self.damaged > 1 else "the row is"
        return f"{self.first_damage}; {rest} left out"

    def each(self, act: Callable[[T], S]) -> Rows[S]:
        """The same file, and what `act` makes of its rows."""
        return Rows(self.path, [act(row) for row in self.rows], self.damaged, self.first_damage)


def read_rows(path: Path, kind: type[T], max_bytes: int = MAX_BYTES) -> Rows[T]:
    """All rows of a file; none if it is not there.

    Raises:
        UnreadableError: it is no regular file, larger than `max_bytes`, or more than `MAX_DAMAGED` rows are damaged.
        OSError: the storage refuses.
    """
    rows: list[T] = []
    damaged, first_damage = 0, None
    for row in _each_row(path, kind, max_bytes):
        if not isinstance(row, UnreadableError):
            rows.append(row)
            continue
        damaged, first_damage = damaged + 1, first_damage or str(row)
        if damaged > MAX_DAMAGED:
            raise UnreadableError(f"{first_damage}; more than {MAX_DAMAGED:,} such rows, so none is read")
    return Rows(path, rows, damaged, first_damage)


def _each_row(path: Path, kind: type[T], max_bytes: int) -> Iterator[T | UnreadableError]:
    """Each row, or what is wrong with it."""
    try:
        with open_regular(path, max_bytes) as (file, _):
            number = 0
            while line := file.readline(MAX_ROW_BYTES):
                number += 1
                is_whole = line.endswith(b"\n")
                if not is_whole and len(line) == MAX_ROW_BYTES:  # what follows belongs to it
                    while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                        pass
                    yield UnreadableError(f"{path}: row {number}: longer than {MAX_ROW_BYTES:,} bytes")
                elif line.strip():
                    try:
                        yield _parsed(line, f"{path}: row {number}", kind)
                    except UnreadableError as error:
                        if is_whole:
                            yield error
    except FileNotFoundError:
        return


def newest_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """The whole rows at the end of a file, the newest first, without what is damaged; none if it is not there.

    Raises UnreadableError if it is no regular file or larger than `MAX_BYTES`; OSError if the storage refuses.
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
    """Add a line at the end, with one write. After a row that was cut short it begins a new line.

    Raises OSError if the storage refuses the line or a part of it.
    """
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        is_torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        rest = b"\n" * is_torn + f"{line}\n".encode()
        while rest:  # a disk takes what it has room for, and says why it took no more when it is asked again
            rest = rest[file.write(rest) :]


def _parsed(line: bytes, where: str, kind: type[T]) -> T:
    value: Any = parse_json(line, where)
    return checked(value, kind, where)
