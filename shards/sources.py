"""What can be packed: numbered images with keys and labels, each read when it is wanted.

    FOLDER               with links followed; a folder that may not be read is an error
    FILE.tar, FILE.zip   read in place, never unpacked; links within are followed; absolute paths and `..` are bad
                         members; an archive that has lost its end is an error
    builtin:NAME         shards.builtin
    torchvision:NAME     the training split of a torchvision dataset; downloaded if it is not there
    SHARDS               a packed dataset, folder or URL, to be packed again: another size, a subset, other shards

Keys, labels and order of files: shards.listing.
"""

from __future__ import annotations

import difflib
import hashlib
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.builtin import SETS
from shards.dataset import ShardDataset
from shards.errors import ShardsError, ShardsUsageError
from shards.files import cache_root
from shards.images import MAX_FILE_BYTES, BadImage
from shards.index import INDEX_NAME
from shards.listing import BadFile, Item, Labels, Listing, list_files, safe_name
from shards.missing import no_such
from shards.remote import is_remote

Pixels = NDArray[np.uint8]

_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)
_MOST_LINKS = 40  # in a row, as Linux has it

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


class Source(ABC):
    """Numbered images. May be used by several processes, forked or spawned."""

    kind: str
    name: str
    listing: Listing

    @abstractmethod
    def read(self, number: int) -> bytes | Pixels:
        """Item `number` of the listing: the bytes of an image file, or pixels uint8 [H, W] or [H, W, 3].

        Raises:
            BadImage: it cannot be read.
        """

    @abstractmethod
    def stamp(self) -> str:
        """A text that changes when the input does (and perhaps when it does not), found without reading images."""


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
    elif is_remote(text) or (path / INDEX_NAME).is_file():
        source = PackedSource(text)
    if source is not None:
        source.listing = source.listing.with_labels(labels)
        return source
    if path.is_dir():
        return FolderSource(path, labels)
    if not path.is_file():
        raise ShardsUsageError(_unknown(text))
    if zipfile.is_zipfile(path):
        return ZipSource(path, labels)
    return TarSource(path, labels)


class FolderSource(Source):
    """Image files in a folder and below it."""

    kind = "folder"

    def __init__(self, root: Path, labels: Labels) -> None:
        self.root = root
        self.name = _text(root.resolve().name)
        stamps: dict[str, tuple[int, int]] = {}
        bad = []
        for path, reason in _walk(root, set()):
            name = path.relative_to(root).as_posix()
            if reason:
                bad.append(BadFile(name, reason))
            else:
                status = path.stat()
                stamps[name] = (status.st_size, status.st_mtime_ns)
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


class TarSource(Source):
    """Image files in an uncompressed tar: listed once, then read at their offsets."""

    kind = "tar"

    def __init__(self, path: Path, labels: Labels) -> None:
        self.path = path
        self.name = _text(path.stem)
        self._spans: dict[str, tuple[int, int]] = {}
        bad = []
        links: dict[str, str] = {}
        present: set[str] = set()
        end = 0
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    end = _end_of(member)
                    if member.isdir():
                        continue
                    link = member.issym() or member.islnk()
                    name, reason = _admit(member.name, present, _refusal_of_tar_member(member))
                    if reason:
                        bad.append(BadFile(name, reason))
                    elif link:
                        links[name] = _target(name, member.linkname, from_top=member.islnk())
                    else:
                        self._spans[name] = (member.offset_data, member.size)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise ShardsUsageError(f"{path}: neither a zip nor an uncompressed tar that can be read: {error}") from None
        _require_end_of_tar(path, end)
        bad += _follow(links, self._spans)
        self.listing = list_files(self._spans, bad, self._read_member, labels)

    def read(self, number: int) -> bytes:
        """See Source."""
        return self._read_member(self.listing.items[number].name)

    def stamp(self) -> str:
        """See Source."""
        return _file_stamp(self.path)

    def _read_member(self, name: str) -> bytes:
        offset, size = self._spans[name]
        if size > MAX_FILE_BYTES:
            raise BadImage(f"too large: {size:,} bytes, at most {MAX_FILE_BYTES:,}")
        try:
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise BadImage("cut off by the end of the archive")
        return data


class ZipSource(Source):
    """Image files in a zip."""

    kind = "zip"

    def __init__(self, path: Path, labels: Labels) -> None:
        self.path = path
        self.name = _text(path.stem)
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        bad = []
        links: dict[str, str] = {}
        present: set[str] = set()
        for info in self._zip().infolist():
            if info.is_dir():
                continue
            name, reason = _admit(info.filename, present, _refusal_of_zip_member(info))
            if reason:
                bad.append(BadFile(name, reason))
            elif stat.S_ISLNK(info.external_attr >> 16):
                try:
                    links[name] = _target(name, self._zip().read(info).decode(errors="replace"), from_top=False)
                except _DAMAGED as error:
                    bad.append(BadFile(name, f"a damaged link: {error}"))
            else:
                self._members[name] = info
        bad += _follow(links, self._members)
        self.listing = list_files(self._members, bad, self._read_member, labels)

    def read(self, number: int) -> bytes:
        """See Source."""
        return self._read_member(self.listing.items[number].name)

    def stamp(self) -> str:
        """See Source."""
        return _file_stamp(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _read_member(self, name: str) -> bytes:
        info = self._members[name]
        if info.file_size > MAX_FILE_BYTES:
            raise BadImage(f"too large: {info.file_size:,} bytes, at most {MAX_FILE_BYTES:,}")
        try:
            return self._zip().read(info)
        except _DAMAGED as error:
            raise BadImage(f"a damaged member: {error}") from None

    def _zip(self) -> zipfile.ZipFile:
        """A handle of this process: a forked one would share its file position with the parent's."""
        if self._handle is None or self._handle[0] != os.getpid():
            try:
                self._handle = (os.getpid(), zipfile.ZipFile(self.path))
            except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
                raise ShardsError(f"{self.path}: a damaged zip: {error}") from None
        return self._handle[1]


class BuiltinSource(Source):
    """One of the sets of shards.builtin."""

    kind = "builtin"

    def __init__(self, name: str) -> None:
        if name not in SETS:
            raise ShardsUsageError(
                f"builtin:{name} is unknown; known: {', '.join(f'builtin:{known}' for known in SETS)}"
            )
        self.name = name
        images = SETS[name]()
        self._pixels = images.pixels
        labels = [-1] * len(images.pixels) if images.labels is None else images.labels.tolist()
        self.listing = _numbered(labels, images.classes)

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
            raise ShardsUsageError(f"torchvision:{name} is unknown; known: {', '.join(TORCHVISION)}")
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
    close = [name] if Path(name).exists() else difflib.get_close_matches(spec, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{spec}: no such file, and {scheme} is no kind of source: builtin, torchvision, or a path alone{hint}"


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[tuple[Path, str]]:
    """Every file below `folder` with the reason to refuse it, or "". A folder that links lead back to is refused."""
    status = folder.stat()
    visited.add((status.st_dev, status.st_ino))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:  # --max-bad counts files: nobody knows how many are in there
        raise ShardsError(f"{folder}: this folder cannot be read: {error.strerror}") from None
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            inner = path.stat()
            if (inner.st_dev, inner.st_ino) in visited:
                yield path, "a link to a folder that is already read"
            else:
                yield from _walk(path, visited)
        elif entry.is_file():
            yield path, ""
        else:
            yield path, "a link that leads nowhere" if entry.is_symlink() else "not a plain file"


def _admit(member: str, present: set[str], reason: str | None) -> tuple[str, str | None]:
    """An archive member's plain path, and the reason to refuse it or None. An admitted one is then present."""
    name = safe_name(member)
    if name is None:
        return member, "leads out of the archive"
    if reason is None and name in present:
        reason = "duplicate key: the archive holds this path twice"
    if reason is None:
        present.add(name)
    return name, reason


def _refusal_of_tar_member(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return None
    if not member.isreg():
        return "not a plain file"
    return "a negative size" if member.size < 0 else None


def _refusal_of_zip_member(info: zipfile.ZipInfo) -> str | None:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFLNK):
        return "not a plain file"
    return "encrypted" if info.flag_bits & 1 else None


def _target(name: str, link: str, *, from_top: bool) -> str:
    """Where a link of an archive leads, as a path within it; "" if it leads out. Hard links start at the top."""
    start = "" if from_top else posixpath.dirname(name)
    path = posixpath.normpath(posixpath.join(start, link))
    return "" if path.startswith(("/", "..")) else path


def _follow(links: dict[str, str], files: dict[str, Any]) -> list[BadFile]:
    """Let every link stand for the file that it leads to, in `files`. Those that lead to none are refused."""
    bad = []
    for name in links:
        place, steps = links[name], 0
        while place in links and steps < _MOST_LINKS:
            place, steps = links[place], steps + 1
        if place in files:
            files[name] = files[place]
        else:
            bad.append(BadFile(name, f"a link that leads {'to no file' if place else 'out'} of the archive"))
    return bad


def _end_of(member: tarfile.TarInfo) -> int:
    """Where the next member begins, or the mark of the archive's end."""
    size = max(0, member.size) if member.isreg() else 0
    return member.offset_data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _require_end_of_tar(path: Path, end: int) -> None:
    """A tar ends with zeros. One that broke off between two members looks whole without them; one that another was
    appended to has more behind them.

    Raises ShardsError.
    """
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(tarfile.BLOCKSIZE)
        if len(rest) < tarfile.BLOCKSIZE or any(rest):
            raise ShardsError(
                f"{path}: the archive has lost its end: a download or a copy broke off, and images are missing; get it "
                "again, or, if it is all there is, unpack it and pack the folder"
            )
        while rest := file.read(1 << 20):
            if rest.strip(b"\0"):
                raise ShardsError(
                    f"{path}: something follows the end of the archive, perhaps a second one: unpack it, with "
                    "`tar --ignore-zeros -xf`, and pack the folder"
                )


def _text(name: str) -> str:
    """A file's name as text, whatever its bytes are."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _file_stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns}"


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
    try:
        return dataset(root, download=True, **TORCHVISION[name])
    except (RuntimeError, OSError) as error:
        raise ShardsError(
            f"torchvision:{name} is not under {root} and cannot be downloaded ({' '.join(str(error).split())}); "
            f"fetch its files elsewhere and put them, as they are published, into {root / _PUBLISHED.get(name, '')}"
        ) from None
