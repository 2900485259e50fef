"""What can be packed: numbered images with keys and labels, each read when it is wanted.

    FOLDER               with links followed; a folder that may not be read is an error
    FILE.tar, FILE.zip   shards.archives
    builtin:NAME         shards.builtin
    torchvision:NAME     the training split of a torchvision dataset; downloaded if it is not there
    SHARDS               a packed dataset, folder or URL, to be packed again: another size, a subset, other shards

Keys, labels and order of files: shards.listing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shards.archives import open_archive
from shards.builtin import SETS
from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsUsageError, refusal
from shards.files import cache_root
from shards.images import MAX_FILE_BYTES, BadImage
from shards.index import INDEX_NAME
from shards.labels import Labels
from shards.listing import BadFile, Item, Listing, list_files
from shards.missing import no_such
from shards.remote import is_remote
from shards.source import Pixels, Source, name_as_text
from untrusted.terminal import tell
from untrusted.words import hint, not_known, similar

_READ_LINK = "a link to a folder that is already read"
_READ_FOLDER = "a folder that is already read under another name"  # as where it is mounted twice
_NO_SUCH = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

# name: the arguments that select the training split
TORCHVISION: dict[str, dict[str, Any]] = {
    **{name: {"train": True} for name in ("MNIST", "FashionMNIST", "KMNIST", "USPS", "CIFAR10", "CIFAR100")},
    **{name: {"split": "train"} for name in ("SVHN", "STL10", "Flowers102", "Food101", "DTD")},
    "OxfordIIITPet": {"split": "trainval"},
    "EuroSAT": {},
}
# name: where torchvision looks for the published files, below the folder that it is given; others in that folder
_PUBLISHED = {
    **{name: f"{name}/raw" for name in ("MNIST", "FashionMNIST", "KMNIST")},
    "Flowers102": "flowers-102",
    "DTD": "dtd",
    "OxfordIIITPet": "oxford-iiit-pet",
    "EuroSAT": "eurosat",
}


def open_source(spec: str | Path, *, torchvision_root: Path | None = None, labels: Labels = "class") -> Source:
    """The source that `spec` names.

    Args:
        labels: which labels of a folder or an archive to read; see `shards.listing`.

    Raises:
        ShardsUsageError: there is no such source.
        ShardsError: there is, but it cannot be read.
    """
    text, path = str(spec), Path(spec)
    source: Source | None = None
    if text.startswith("builtin:"):
        source = BuiltinSource(text.removeprefix("builtin:"))
    elif text.startswith("torchvision:"):
        source = TorchvisionSource(text.removeprefix("torchvision:"), torchvision_root or cache_root() / "torchvision")
    elif is_remote(text) or os.path.isfile(path / INDEX_NAME):  # False also where that may not be known
        source = PackedSource(text)
    if source is not None:
        if labels != "class":  # those that they have
            source.listing = source.listing.with_labels(labels)
        return source
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in _NO_SUCH:
            raise ShardsUsageError(_unknown(text)) from None
        raise refusal(error)(f"{path}: this cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        return FolderSource(path, labels)
    if not stat.S_ISREG(mode):
        raise ShardsUsageError(_unknown(text))
    return open_archive(path, labels)


class FolderSource(Source):
    """Image files in a folder and below it."""

    kind = "folder"

    def __init__(self, root: Path, labels: Labels) -> None:
        self.root = root
        self.roots = (root,)
        self.name = name_as_text(root.resolve().name)
        stamps: dict[str, tuple[int, int]] = {}
        bad = []
        for name, found in _walk(root):
            if isinstance(found, str):
                bad.append(BadFile(name, found))
            else:
                stamps[name] = (found.st_size, found.st_mtime_ns)
        self._stamp = hashlib.sha256(repr(sorted(stamps.items())).encode()).hexdigest()
        self.listing = list_files(stamps, bad, self._read_file, labels)

    def read(self, number: int) -> bytes:
        """See Source."""
        return self._read_file(self.listing.items[number].name)

    def stamp(self) -> str:
        """See Source."""
        return self._stamp

    def _read_file(self, name: str) -> bytes:
        try:
            with (self.root / name).open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from None


class BuiltinSource(Source):
    """One of the sets of shards.builtin."""

    kind = "builtin"

    def __init__(self, name: str) -> None:
        if name not in SETS:
            raise ShardsUsageError(not_known(f"builtin:{name}", (f"builtin:{known}" for known in SETS)))
        self.name = name
        self._images = SETS[name]()
        self._pixels = self._images.pixels

    @cached_property
    def listing(self) -> Listing:  # type: ignore[override]
        """See Source. Not made where the stamp alone is asked for, to find a packed copy."""
        labels = self._images.labels
        return _numbered([-1] * len(self._pixels) if labels is None else labels.tolist(), self._images.classes)

    def read(self, number: int) -> Pixels:
        """See Source."""
        pixels: Pixels = self._pixels[number]
        return pixels

    def stamp(self) -> str:
        """See Source."""
        return hashlib.sha256(self._pixels.tobytes()).hexdigest()


class TorchvisionSource(Source):
    """The training split of a torchvision dataset, under `root`."""

    kind = "torchvision"

    def __init__(self, name: str, root: Path) -> None:
        if name not in TORCHVISION:
            raise ShardsUsageError(not_known(f"torchvision:{name}", (f"torchvision:{known}" for known in TORCHVISION)))
        self.name = name
        self._root = root
        self._dataset = _load_torchvision(name, root)
        labels = next(
            [int(label) for label in getattr(self._dataset, attribute)]
            for attribute in ("targets", "labels", "_labels")
            if hasattr(self._dataset, attribute)
        )
        classes = getattr(self._dataset, "classes", None) or [str(label) for label in range(max(labels) + 1)]
        self.listing = _numbered(labels, [str(name) for name in classes])

    def read(self, number: int) -> Pixels:
        """See Source."""
        try:
            image, _ = self._dataset[number]
        except OSError as error:
            raise BadImage(f"cannot be read: {error}") from None
        return np.asarray(image)

    def stamp(self) -> str:
        """See Source."""
        return f"{self.name} in {self._root.resolve()}: {len(self.listing.items)}"


class PackedSource(Source):
    """A packed dataset; keys, labels and classes stay."""

    kind = "shards"

    def __init__(self, path: str) -> None:
        self._dataset = ShardDataset(path)
        self.name = self._dataset.name
        keys = map(self._dataset.key, range(len(self._dataset)))
        vectors = self._dataset.vectors()
        rows = [()] * len(self._dataset) if vectors is None else [tuple(row) for row in vectors.tolist()]
        items = [
            Item(key, key, label, row)
            for key, label, row in zip(keys, self._dataset.labels().tolist(), rows, strict=True)
        ]
        record = self._dataset.index.vectors
        self.listing = Listing(
            items, self._dataset.index.classes, bad=[], vector_dim=0 if record is None else record.dim
        )

    def read(self, number: int) -> Pixels:
        """See Source."""
        pixels, _, _ = self._dataset.read(number)
        return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)  # [C, H, W] -> [H, W] or [H, W, 3]

    def stamp(self) -> str:
        """See Source."""
        return self._dataset.fingerprint


def _unknown(spec: str) -> str:
    """What to say of a source that is no file, no folder and of no scheme."""
    scheme, colon, name = spec.partition(":")
    if not colon or "/" in scheme:
        return f"{no_such(spec, 'file or folder')} (or builtin:NAME, torchvision:NAME)"
    known = [f"{kind}:{each}" for kind, names in (("builtin", SETS), ("torchvision", TORCHVISION)) for each in names]
    # A folder is named without more, though torchvision's class for one is called ImageFolder
    close = [name] if Path(name).exists() else similar(spec, known, most=1)
    return (
        f"{spec}: no such file, and {scheme} is no kind of source: builtin, torchvision, or a path alone{hint(close)}"
    )


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result | str]]:
    """Every file below `root`, by its path from there: its status, or the reason to refuse it. Links are followed,
    but for those to a folder that is already read.

    Raises:
        ShardsError: a folder cannot be read, or it cannot be known whether something is one. `--max-bad` counts files,
            and nobody knows how many are in there.
    """
    visited: set[tuple[int, int]] = set()
    links = deque([""])  # the root too may be one
    while links:
        yield from _walk_until_links(root, links.popleft(), visited, links)


def _walk_until_links(
    root: Path, start: str, visited: set[tuple[int, int]], links: deque[str]
) -> Iterator[tuple[str, os.stat_result | str]]:
    """As `_walk`, below `start` only. Links to folders are put off until every real folder has been read: otherwise
    one whose name comes first would take the place of the folder itself, and name its class.

    Args:
        visited: device and inode of every folder that is read; more are added.
        links: the links that were put off are added.
    """
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = root / name
        try:
            status = path.stat()
            is_folder = stat.S_ISDIR(status.st_mode)
            is_link = is_folder and path.is_symlink()
            if is_link and name != start:
                links.append(name)
                continue
            read_before = (status.st_dev, status.st_ino) in visited
            below = sorted(os.listdir(path), reverse=True) if is_folder and not read_before else []
        except OSError as error:
            if not os.path.islink(path) or error.errno not in _NO_SUCH:
                raise refusal(error)(f"{path}: this cannot be read: {error.strerror}") from None
            yield name, "a link that leads nowhere"
            continue
        if read_before and is_folder:
            yield name, _READ_LINK if is_link else _READ_FOLDER
        elif is_folder:
            visited.add((status.st_dev, status.st_ino))
            waiting += [f"{name}/{entry}" if name else entry for entry in below]
        else:
            yield name, status if stat.S_ISREG(status.st_mode) else "not a plain file"


def _numbered(labels: list[int], classes: list[str]) -> Listing:
    """The listing of a set whose images have numbers instead of names."""
    names = [f"{number:08d}" for number in range(len(labels))]
    return Listing([Item(name, name, label) for name, label in zip(names, labels, strict=True)], classes, bad=[])


def _load_torchvision(name: str, root: Path) -> Any:
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, name)
    try:
        return dataset(root, **TORCHVISION[name])
    except (RuntimeError, FileNotFoundError):
        pass  # not there yet
    place = root / _PUBLISHED.get(name, "")
    tell(f"torchvision:{name}: downloading to {place}; its published files, put there by hand, need no network")
    try:
        return dataset(root, download=True, **TORCHVISION[name])
    except (RuntimeError, OSError) as error:
        raise ShardsError(
            f"torchvision:{name} is not under {root} and cannot be downloaded ({' '.join(str(error).split())}); "
            f"fetch elsewhere the files that the documentation of torchvision.datasets.{name} names, and put them, as "
            f"they are published, into {place}; or unpack the images yourself, and pack their folder"
        ) from None
