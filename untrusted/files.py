"""A regular file of limited size. Nothing else is read: a pipe may never answer, a device may never end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from untrusted.errors import UnreadableError


@contextmanager
def open_regular(path: Path, max_bytes: int) -> Iterator[tuple[BufferedReader, int]]:
    """The file, opened, and its size in bytes. A link to a regular file is followed.

    Raises:
        UnreadableError: it is no regular file, or larger than `max_bytes`.
        OSError: it is not there, or the storage refuses.
    """
    # Without O_NONBLOCK the opening of a pipe waits for somebody who writes
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{path}: {_kind(status.st_mode)}, not a file")
        if status.st_size > max_bytes:
            raise UnreadableError(f"{path}: has {status.st_size:,} bytes; at most {max_bytes:,} are read")
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file, status.st_size


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a file. Raises what `open_regular` raises."""
    with open_regular(path, max_bytes) as (file, size):
        content = file.read(size + 1)  # Python sets aside as much memory as it is asked to read
        if len(content) > size:  # it has grown meanwhile
            content += file.read(max_bytes + 1 - len(content))
    if len(content) > max_bytes:
        raise UnreadableError(f"{path}: has more than {max_bytes:,} bytes, which is the most that is read")
    return content


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
