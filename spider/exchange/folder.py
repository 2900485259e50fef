"""A folder that is complete, or is not there."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spider.errors import SpiderUsageError


def require_free(out: Path) -> None:
    """Refuse a place where something is already. An empty folder is nothing. Raises SpiderUsageError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpiderUsageError(f"{out}: something is there already; name a new folder")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its place when all is written, or goes."""
    out = out.absolute()
    folder = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    try:
        yield folder
        if out.exists():
            out.rmdir()
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
