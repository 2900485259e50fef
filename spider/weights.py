"""Pretrained networks that embeddings and metrics need: where they come from, where they are kept, how they are read.

    CACHE/weights/                  see `shards.files.cache_root`; the user's own, mode 0700
        pt_inception-2015-12-05-6726825d.pth

Nothing is fetched unless `get` is called, because a compute node has no network. A file is in the cache only if its
sha256 is the known one, is hashed again each time it is read, and cannot run code: only tensors are unpickled.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tqdm import tqdm

from shards.files import open_whole
from spider.arguments import plain_arguments
from spider.errors import SpiderError, SpiderUsageError
from spider.files import cache_directory

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Weights:
    """A published weights file."""

    name: str
    what: str
    url: str
    sha256: str  # in hex, as far as it is published: a prefix counts
    size_mb: int

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


REGISTRY = {
    weights.name: weights
    for weights in [
        Weights(
            name="inception",
            what="Inception-v3 of the FID paper, as pytorch-fid publishes it: FID, KID, IS, SID",
            url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            sha256="6726825d",  # torch.hub's convention: the file's name ends in the start of its digest
            size_mb=91,
        ),
    ]
}


@dataclass(frozen=True)
class WeightsFile:
    """What the cache has of one entry of the registry. `state` is `absent`, `ready` or `damaged`."""

    weights: Weights
    path: Path
    state: str


def cache_dir() -> Path:
    """Where weights are kept."""
    return cache_directory("weights")


def list_weights() -> list[WeightsFile]:
    """Every entry of the registry and what the cache has of it (hashes the files)."""
    files = []
    for weights in REGISTRY.values():
        path = cache_dir() / weights.filename
        state = "absent" if not path.exists() else "ready" if _is(weights, sha256_of_file(path)) else "damaged"
        files.append(WeightsFile(weights, path, state))
    return files


@plain_arguments()
def get(name: str, *, url: str | None = None, progress: bool = True) -> Path:
    """Fetch a weights file into the cache, unless it is there and whole, and return its path.

    Args:
        name: an entry of the registry.
        url: a mirror (https, file). The digest must be the same.
        progress: show a progress bar.

    Raises:
        SpiderUsageError: no such entry.
        SpiderError: it cannot be fetched, or what came has another digest; the cache is left as it was.
    """
    weights = _find(name)
    url = url or weights.url
    path = _private_dir(cache_dir()) / weights.filename
    if path.exists() and _is(weights, sha256_of_file(path)):
        return path
    with open_whole(path) as file:
        digest = _download(url, file, path, progress)
        if not _is(weights, digest):
            raise SpiderError(f"{url}: sha256 is {digest}; {name} has one that starts with {weights.sha256}")
    return path


@plain_arguments()
def verify(name: str, *, otherwise: str = "or name a file: --weights FILE; --embedding offline needs none") -> Path:
    """The path of a weights file in the cache, after hashing it.

    Args:
        otherwise: the ways out besides fetching it, in the words of whoever asks.

    Raises:
        SpiderUsageError: no such entry.
        SpiderError: it is not there, or its digest is not the known one. The message says how to get it.
    """
    weights = _find(name)
    path = cache_dir() / weights.filename
    how = f"run `spider weights get {name}` where there is a network ({weights.size_mb} MB), {otherwise}"
    if not path.exists():
        raise SpiderError(f"weights {name}: no {path}; {how}")
    if not _is(weights, digest := sha256_of_file(path)):
        raise SpiderError(f"{path}: sha256 is {digest}, which should start with {weights.sha256}; {how}")
    return path


def load_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a .pth file and its sha256, from one reading of it.

    Raises:
        SpiderError: it cannot be read, or holds anything but tensors by name, such as code.
    """
    import torch  # here, so that listing and fetching weights does not wait for it

    try:
        blob = path.read_bytes()
        state = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except OSError as error:
        raise SpiderError(f"{path}: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise SpiderError(f"{path}: refused, because it is not a file of tensors alone") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise SpiderError(f"{path}: refused, because it is not a file of tensors by name")
    return state, hashlib.sha256(blob).hexdigest()


def is_published(name: str, digest: str) -> bool:
    """Whether `digest` is that of the published file."""
    return _is(_find(name), digest)


def sha256_of_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(weights: Weights, digest: str) -> bool:
    return digest.startswith(weights.sha256)


def _find(name: str) -> Weights:
    if name not in REGISTRY:
        raise SpiderUsageError(f"no weights named {name!r}; there are: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def _private_dir(path: Path) -> Path:
    """`path`, refused if others could put files into it."""
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise SpiderError(f"{path}: others may write to it; it must be yours alone (chmod 700)")
    return path


def _download(url: str, file: IO[bytes], path: Path, progress: bool) -> str:
    """Copy what is at `url` into `file`, which will be at `path`, and return its sha256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            disable = None if progress else True  # None: if stderr is a terminal
            with tqdm(total=total, desc=path.name, unit="B", unit_scale=True, disable=disable) as bar:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
    except (OSError, ValueError, HTTPException) as error:  # a URLError is an OSError
        reason = getattr(error, "reason", error)
        raise SpiderError(
            f"{url}: cannot be fetched ({reason}); fetch it elsewhere and put it at {path}, or name it: "
            "--weights FILE; --embedding offline needs none"
        ) from error
    return digest.hexdigest()
