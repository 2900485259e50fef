"""Where Ray keeps its files and sockets on a machine: in RAY_TMPDIR, or else in /tmp.

TMPDIR is not asked: it is often long, and the name of a socket has room for 107 bytes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cluster.errors import MachineError

IN_SHELL = '"${RAY_TMPDIR:-/tmp}"'

_FULL_BYTES = 1 << 20  # a disk with less than this is full
_ADVICE = "RAY_TMPDIR=DIR keeps Ray's files in DIR"


def place() -> Path:
    """Where new folders go."""
    return Path(os.environ.get("RAY_TMPDIR") or "/tmp")


def require() -> Path:
    """The place, if it has room for a folder. Raises MachineError as `make_folder` does."""
    make_folder("spider-").rmdir()
    return place()


def make_folder(prefix: str) -> Path:
    """A new folder in the place. Raises MachineError, with the place and what moves it, if that is full or closed."""
    try:
        folder = tempfile.mkdtemp(prefix=prefix, dir=place())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise MachineError(f"{place()}: {error.strerror}; {_ADVICE}") from None
    if free < _FULL_BYTES:
        os.rmdir(folder)
        raise MachineError(f"{place()}: No space left on device; {_ADVICE}")
    return Path(folder)
