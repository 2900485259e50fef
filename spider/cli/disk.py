"""What a disk refuses, in one line: the place that is full or closed, and the variable that puts it elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from cluster.errors import PASSING, MachineError
from shards.errors import ShardsMachineError
from shards.files import cache_root
from spider.errors import SpiderError

# No mistake of the program: another's folder, a file where a folder would go, a limit on the size of files
_REFUSED = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "EFBIG")
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_BYTES = 1 << 20  # a disk with less than this is full


def described(error: OSError) -> tuple[str, int] | None:
    """One line and an exit code; None if the error is no disk's, but a mistake of the program."""
    if str(error.args[-1] if error.args else "").startswith("No usable temporary directory"):
        return f"{error.args[-1]}: TMPDIR=DIR names another", MachineError.exit_code
    name = error.filename2 or error.filename  # the first is a file that was to be renamed, and nobody knows that one
    file = None if name is None else Path(os.fsdecode(name))
    cached = file is not None and _is_cached(file)
    passing = error.errno in PASSING or cached  # the same request goes well with another cache
    if not passing and (error.errno not in _REFUSED or file is None):
        return None
    parts = [str(part) for part in (file, error.strerror) if part is not None]
    if file is None and error.errno in _FULL:
        parts += [f"{place} is full{_moves(place)}" for place in _full_places()]
    line = ": ".join(parts) + ("" if file is None else _moves(file))
    return line, (MachineError if passing else SpiderError).exit_code


def _moves(file: Path) -> str:
    """Which variable moves what lies there, if one does."""
    if _is_cached(file):
        return "; SPIDER_CACHE=DIR keeps caches in DIR"
    return "; TMPDIR=DIR keeps temporary files in DIR" if _is_in(file, _temporary()) else ""


def _full_places() -> list[Path]:
    """The disks without room among those that commands write to."""
    found = []
    for place in (Path.cwd(), _cache(), _temporary()):
        if place is not None:
            disk = next(each for each in (place.absolute(), *place.absolute().parents) if each.exists())
            if shutil.disk_usage(disk).free < _FULL_BYTES:
                found.append(place)
    return found


def _is_cached(file: Path) -> bool:
    """Whether it lies in the cache, or is a folder above it that cannot be made."""
    cache = _cache()
    return _is_in(file, cache) or (cache is not None and _is_in(cache, file) and not file.exists())


def _is_in(file: Path, folder: Path | None) -> bool:
    return folder is not None and file.absolute().is_relative_to(folder.absolute())


def _temporary() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # every place for temporary files is closed
        return None


def _cache() -> Path | None:
    try:
        return cache_root()
    except ShardsMachineError:
        return None
