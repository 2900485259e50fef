"""Files that are there whole or not at all, and where caches live."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"  # the suffix, after a dot and the name, of what a killed process leaves beside a file


def cache_root() -> Path:
    """$SPIDER_CACHE, or `spider` in the user's cache directory: $XDG_CACHE_HOME, or ~/.cache. Unset and "" are one."""
    own = os.environ.get("SPIDER_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spider"


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
        with beside.open("xb") as file, _named(path):
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


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A write to a full disk does not say where: let it name the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as `open_whole` does."""
    with open_whole(path) as file:
        file.write(content)
