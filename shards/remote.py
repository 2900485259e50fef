"""Shards behind a URL, through fsspec: each fetched whole when first used, checked, and kept.

    CACHE/<name>-<hash of url and content>/
        000000.tar, 000000.offsets    checked by sha256, on disk, then renamed into place
        000000.tar.lock               held by the process that fetches

Every dataset has a folder of its own: two sets whose shards have the same names never meet, nor do the shards of a set
and of the same images packed anew. A file that was cut, by a crash or a full disk, is fetched again. Files are never
deleted here; the folder may be removed at any time that nobody reads it.

The packages that protocols need are extras of this one: http (aiohttp), s3 (s3fs), gcs (gcsfs). A server need not know
ranges, nor list folders. Failures are told apart: missing (404) and refused (401, 403) are lasting, exit code 1; a host
that does not answer and an error of the server (5xx) are the machine's, exit code 3.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from shards.errors import ShardsError, ShardsMachineError, ShardsUsageError, refusal
from shards.files import open_whole

_CHUNK_BYTES = 1 << 20
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_HTTP = ("http://", "https://")
_GONE = (404, 410)
_NO_RIGHTS = (401, 403, 407)
_PASSING = (408, 423, 425, 429)  # of 400 .. 499, those after which the same request may go well


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
        """Bytes of each of these files that is there; None where the other side does not say how many.

        Raises:
            ShardsError: the other side does not answer, or refuses.
        """
        filesystem, root = self._connect()
        try:
            listed = {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in filesystem.ls(root, detail=True)}
        except NotImplementedError:
            listed = {}  # not every protocol lists folders
        except Exception as error:  # each file system has errors of its own
            refused = _refusal(self.url, error)
            if isinstance(refused, ShardsMachineError):
                raise refused from None
            listed = {}  # nor does every server, which may have the files
        sizes = {}
        for name in names:
            try:
                sizes[name] = listed.get(name) or filesystem.size(f"{root}/{name}")
            except Exception as error:  # each file system has errors of its own
                if not _is_missing(self.url, error):
                    raise _refusal(f"{self.url}/{name}", error) from None
        return sizes

    def cache_folder(self, root: Path, sha256s: Iterable[str]) -> Path:
        """The private folder under `root`, for this user only, of the dataset whose files have these digests."""
        private = hashlib.sha256("\n".join([self.url, *sha256s]).encode()).hexdigest()[:16]
        folder = root / f"{re.sub(r'[^A-Za-z0-9_-]', '_', self.name)}-{private}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_keep(folder, error) from None
        return folder

    def fetch(self, name: str, sha256: str, size: int | None, folder: Path, *, by_size: bool = False) -> Path:
        """The file `name` in `folder`, fetched unless it is there and whole. Of several processes, one fetches, where
        the file system knows locks.

        Args:
            size: in bytes; None: not known.
            by_size: take a file of that size for whole, and do not hash it again.

        Raises:
            ShardsError: it cannot be had, or is not what the index says.
            ShardsMachineError: the transfer broke off.
        """
        path = folder / name
        trusted = size if by_size else None
        if _is_whole(path, sha256, trusted):
            return path
        try:
            with (folder / f"{name}.lock").open("w") as lock:
                with suppress(OSError):  # without locks each fetches for itself, and the last takes the place
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_whole(path, sha256, trusted):
                    self._download(name, sha256, size, path)
        except OSError as error:
            raise _cannot_keep(folder, error) from None
        return path

    def _download(self, name: str, sha256: str, size: int | None, path: Path) -> None:
        digest, came = hashlib.sha256(), 0
        with open_whole(path) as copy:
            for chunk in self._chunks(name):
                digest.update(chunk)
                copy.write(chunk)
                came += len(chunk)
            # Not every server says how long its answer is; a file that is that short over there is damaged
            if size is not None and came < size and self.sizes([name]).get(name) != came:
                raise ShardsMachineError(f"{self.url}/{name}: the transfer broke off after {came:,} of {size:,} bytes")
            if digest.hexdigest() != sha256:
                raise ShardsError(f"{self.url}/{name}: damaged: its sha256 is not the one in index.json")

    def _chunks(self, name: str) -> Iterator[bytes]:
        filesystem, root = self._connect()
        # In one stream: by ranges, as fsspec reads by default, only from servers that know them
        streamed = {"block_size": 0} if self.url.startswith(_HTTP) else {}
        try:
            with filesystem.open(f"{root}/{name}", "rb", **streamed) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except Exception as error:  # each file system has errors of its own
            raise _refusal(f"{self.url}/{name}", error) from None

    def _connect(self) -> tuple[Any, str]:
        """The file system and the folder's path in it, anew on each use: connections do not survive a fork."""
        try:
            filesystem, root = fsspec.url_to_fs(self.url)
        except ImportError as error:
            package = _PACKAGES.get(self.url.split("://")[0])
            advice = f"pip install {package}" if package else str(error)
            raise ShardsUsageError(f"{self.url}: a package that reads such URLs is not installed: {advice}") from None
        except Exception as error:  # an unknown protocol, or a driver's own refusal
            raise ShardsUsageError(f"{self.url}: {error}") from None
        return filesystem, str(root)


def _cannot_keep(folder: Path, error: OSError) -> ShardsError:
    return refusal(error)(
        f"{folder}: shards cannot be kept there: {error.strerror}; the variable SPIDER_CACHE says where caches lie"
    )


def _refusal(what: str, error: Exception) -> ShardsError:
    """The error to raise for a file system's refusal of the URL `what`: lasting, or of the machine."""
    cause = _cause(what, error)
    status = _status(cause)
    if _is_missing(what, error):
        return ShardsError(f"{what}: missing")
    if status in _NO_RIGHTS or isinstance(cause, PermissionError):
        return ShardsError(f"{what}: refused, for want of rights or credentials: {_text(cause)}")
    if status is not None:
        lasting = 400 <= status < 500 and status not in _PASSING
        return (ShardsError if lasting else ShardsMachineError)(f"{what}: the server answers {_text(cause)}")
    return refusal(cause)(f"{what}: cannot be read: {_text(cause)}")


def _cause(what: str, error: Exception) -> Exception:
    """What is behind the error: over HTTP fsspec calls any failure "not found", and the true one its cause."""
    return error.__cause__ if what.startswith(_HTTP) and isinstance(error.__cause__, Exception) else error


def _is_missing(what: str, error: Exception) -> bool:
    cause = _cause(what, error)
    return isinstance(cause, FileNotFoundError) or _status(cause) in _GONE


def _status(error: Exception) -> int | None:
    """The HTTP status that a driver's error carries."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _text(error: Exception) -> str:
    status = _status(error)
    said = str(getattr(error, "message", "") or "") if status is not None else str(error)
    return " ".join(f"{status or ''} {said}".split()) or type(error).__name__


def _is_whole(path: Path, sha256: str, size: int | None) -> bool:
    try:
        if size is not None:
            return path.stat().st_size == size
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
