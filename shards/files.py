"""Files that are there whole or not at all, and where caches live."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shards.errors import ShardsMachineError

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

UNFINISHED = ".unfinished"  # the suffix, after a dot and the name, of what a killed process leaves beside a file


def cache_root() -> Path:
    """$SPIDER_CACHE, or `spider` in the user's cache directory: $XDG_CACHE_HOME, or ~/.cache. Unset and "" are one."""
    own, user = os.environ.get("SPIDER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return Path(user or Path.home() / ".cache") / "spider"
    except RuntimeError:  # a user without an entry, as in a container
        raise ShardsMachineError("there is no home directory to keep a cache in: SPIDER_CACHE=DIR names one") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full or broken disk refuses a write and does not say where: its error gets the name of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _OF_THE_DISK:
            error.filename = os.fspath(path)
        raise


@contextmanager
def open_whole(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at the end of the block, on disk with all that it holds.

    Whoever reads `path` finds the old content or the new, also after a crash; if the block raises, the old. Several
    processes may write it at once: the last one stays. `sync=False` does not wait for the disk, so that a loss of power
    may take the new content: for many files that can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
    try:
        with naming(path), beside.open("xb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if not sync:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as `open_whole` does."""
    with open_whole(path) as file:
        file.write(content)
