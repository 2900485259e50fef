"""Shards behind a URL, through fsspec: each fetched whole when first used, checked, and kept.

    CACHE/<name>-<hash of url and content>/
        000000.tar, 000000.offsets    checked by sha256, on disk, then renamed into place
        000000.tar.lock               held by the process that fetches

Every dataset has a folder of its own: two sets whose shards have the same names never meet, nor do the shards of a set
and of the same images packed anew. A file that was cut, by a crash or a full disk, is fetched again. Files are never
deleted here; the folder may be removed at any time that nobody reads it.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from shards.errors import ShardsError, refusal
from shards.files import open_whole

_CHUNK_BYTES = 1 << 20


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a URL rather than a folder."""
    return "://" in str(path)


class RemoteFolder:
    """The files of one dataset behind a URL. Holds no connection, so it may be forked and pickled."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]

    def read(self, name: str, at_most: int) -> bytes:
        """The content of a small file, cut after `at_most` bytes.

        Raises:
            ShardsError: it cannot be had.
        """
        content = bytearray()
        for chunk in self._chunks(name):
            content += chunk
            if len(content) > at_most:
                break
        return bytes(content[:at_most])

    def sizes(self, names: list[str]) -> dict[str, int | None]:
        """Bytes of each file; None for one that is not there.

        Raises:
            ShardsError: the other side does not answer.
        """
        filesystem, root = self._connect()
        try:
            listed = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in filesystem.ls(root, detail=True)}
        except (FileNotFoundError, NotImplementedError):
            listed = {}  # not every protocol lists folders
        except Exception as error:  # each file system has errors of its own
            raise refusal(error)(f"{self.url}: cannot be listed: {error}") from None
        return {name: listed.get(name) or self._size(filesystem, f"{root}/{name}") for name in names}

    def cache_folder(self, root: Path, sha256s: Iterable[str]) -> Path:
        """The private folder under `root`, for this user only, of the dataset whose files have these digests."""
        private = hashlib.sha256("\n".join([self.url, *sha256s]).encode()).hexdigest()[:16]
        folder = root / f"{re.sub(r'[^A-Za-z0-9_-]', '_', self.name)}-{private}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def fetch(self, name: str, sha256: str, size: int | None, folder: Path) -> Path:
        """The file `name` in `folder`, fetched unless it is there and whole. Of several processes, one fetches.

        It is whole with this `size` in bytes, or, if that is None, with this digest.

        Raises:
            ShardsError: it cannot be had, or is not what the index says.
        """
        path = folder / name
        if _is_whole(path, sha256, size):
            return path
        with (folder / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise ShardsError(f"{folder}: its file system cannot lock files ({error}); cache elsewhere") from None
            if not _is_whole(path, sha256, size):
                self._download(name, sha256, path)
        return path

    def _download(self, name: str, sha256: str, path: Path) -> None:
        digest = hashlib.sha256()
        with open_whole(path) as copy:
            for chunk in self._chunks(name):
                digest.update(chunk)
                copy.write(chunk)
            if digest.hexdigest() != sha256:
                raise ShardsError(f"{self.url}/{name}: damaged: its sha256 is not the one in index.json")

    def _chunks(self, name: str) -> Iterator[bytes]:
        filesystem, root = self._connect()
        try:
            with filesystem.open(f"{root}/{name}", "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            raise ShardsError(f"{self.url}/{name}: missing") from None
        except Exception as error:  # each file system has errors of its own
            raise refusal(error)(f"{self.url}/{name}: cannot be read: {error}") from None

    def _size(self, filesystem: Any, path: str) -> int | None:
        try:
            size: int | None = filesystem.size(path)
        except FileNotFoundError:
            return None
        except Exception as error:  # each file system has errors of its own
            raise refusal(error)(f"{path}: {error}") from None
        return size

    def _connect(self) -> tuple[Any, str]:
        """The file system and the folder's path in it, anew on each use: connections do not survive a fork."""
        try:
            filesystem, root = fsspec.url_to_fs(self.url)
        except Exception as error:  # an unknown protocol, or a driver that is not installed
            raise ShardsError(f"{self.url}: {error}") from None
        return filesystem, str(root)


def _is_whole(path: Path, sha256: str, size: int | None) -> bool:
    try:
        if size is not None:
            return path.stat().st_size == size
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
