"""What a source of images is: numbered, with keys and labels, each read when it is wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.listing import Listing

Pixels = NDArray[np.uint8]


class Source(ABC):
    """Numbered images. May be used by several processes, forked or spawned.

    Attributes:
        roots: folders of which all files are read, so that nothing may be written there.
    """

    kind: str
    name: str
    listing: Listing
    roots: tuple[Path, ...] = ()

    @abstractmethod
    def read(self, number: int) -> bytes | Pixels:
        """Item `number` of the listing: the bytes of an image file, or pixels uint8 [H, W] or [H, W, 3].

        Raises:
            BadImage: it cannot be read.
        """

    @abstractmethod
    def stamp(self) -> str:
        """A text that changes when the input does (and perhaps when it does not), found without reading images."""


def name_as_text(name: str) -> str:
    """A file's name as text, whatever its bytes are: those that are not UTF-8 as `\\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def file_stamp(path: Path) -> str:
    """A `Source.stamp` of a source that is one file."""
    status = path.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns}"
