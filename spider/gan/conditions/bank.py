"""A bank of instances: features of every image of a packed dataset, and the images that lie nearest to each.

One safetensors file, so that it can be moved, and is known by its digest:

    features            float16 [N, D]   of each image, divided by their length
    features_flipped    float16 [N, D]   of the same images flipped left to right; not in every bank
    neighbors           int32 [N, k]     the k nearest images of each, nearest first; the image itself is none
    radii               float32 [N]      Euclidean distance to the last of them
    centres             int32 [C]        images that stand for all: the nearest to each centre of k-means, rising
    labels              int32 [N]        the class of each, of `BankAbout.classes`, or -1; not in every bank

`spider instances` writes it (`spider.judge.instances`). Arrays are mapped, not read: a bank may be larger than memory,
and the ranks of a machine share it. Sources: IC-GAN (Casanova et al. 2021), section 2; the reference keeps the same
numbers in three files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.files import open_whole
from spider.errors import SpiderError, SpiderUsageError
from untrusted.errors import UnreadableError
from untrusted.files import open_regular
from untrusted.json_data import parse_json
from untrusted.typed import checked

FORMAT = "1"
_MARK = "spider.instances"
_MAX_BYTES = 1 << 40
_MAX_HEADER = 1 << 22
_TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

Array = NDArray[Any]


@dataclass(frozen=True)
class BankAbout:
    """What a bank is of.

    Attributes:
        dataset: fingerprint of the packed images that a training reads.
        pixels: fingerprint of those that were embedded: the same, or the same images at another size.
        name: of the dataset, for messages.
        embedding: its name, as `spider.judge.embed.load.load_embedding` takes it.
        protocol: its resize rule.
        label: what tables call both.
        digest: of the embedding.
        size: height and width of the images that were embedded, in px.
        crop: how they became so, as `pack` calls it.
        classes: names of the classes of the images, by number; of a bank without labels none.
    """

    dataset: str
    pixels: str
    name: str
    embedding: str
    protocol: str
    label: str
    digest: str
    size: tuple[int, int] = (0, 0)
    crop: str = "center"
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BankShape:
    """How large a bank is."""

    images: int
    dim: int
    neighbors: int
    centres: int
    flipped: bool
    labelled: bool = False

    def arrays(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Type and shape of each array, in the order of the file."""
        rows = (np.dtype("<f2"), (self.images, self.dim))
        return {
            "features": rows,
            **({"features_flipped": rows} if self.flipped else {}),
            "neighbors": (np.dtype("<i4"), (self.images, self.neighbors)),
            "radii": (np.dtype("<f4"), (self.images,)),
            "centres": (np.dtype("<i4"), (self.centres,)),
            **({"labels": (np.dtype("<i4"), (self.images,))} if self.labelled else {}),
        }


@dataclass(frozen=True)
class InstanceBank:
    """A bank that is open. The arrays are those of the module's table, mapped, read-only."""

    path: Path
    about: BankAbout
    features: Array
    features_flipped: Array | None
    neighbors: Array
    radii: Array
    centres: Array
    labels: Array | None

    @classmethod
    def open(cls, path: Path | str) -> InstanceBank:
        """A bank on disk.

        Raises:
            SpiderUsageError: there is no such file.
            SpiderError: it is no bank, or a damaged one.
        """
        path = Path(path)
        try:
            with open_regular(path, _MAX_BYTES) as (file, size):
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length <= min(_MAX_HEADER, size - 8):
                    raise SpiderError(f"{path}: no bank of instances; spider instances makes one")
                header = checked(parse_json(file.read(length), f"{path}: header"), dict[str, Any], str(path))
            about, arrays = _described(path, header, size - 8 - length)
            mapped = {  # as plain arrays, which are indexed in less time
                name: np.asarray(np.memmap(path, each.dtype, "r", 8 + length + each.start, each.shape))
                if each.count
                else each.none
                for name, each in arrays.items()
            }
        except FileNotFoundError:
            raise SpiderUsageError(f"{path}: no such file; spider instances DATA --out {path} makes it") from None
        except UnreadableError as error:
            raise SpiderError(str(error)) from None
        for name in ("neighbors", "centres"):
            numbers, images = mapped[name], len(mapped["features"])
            if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < images:
                raise SpiderError(f"{path}: damaged: {name} has images that are none of 0 to {images - 1}")
        labels = mapped.get("labels")
        if labels is not None and labels.size and not -1 <= int(labels.min()) <= int(labels.max()) < len(about.classes):
            raise SpiderError(f"{path}: damaged: labels that are none of {len(about.classes)} classes")
        neighbors, radii, centres = (mapped[name] for name in _REST)
        flipped = mapped.get("features_flipped")
        return cls(path, about, mapped["features"], flipped, neighbors, radii, centres, labels)

    def __len__(self) -> int:
        """How many instances it has."""
        return len(self.features)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.features.shape[1])

    def require_of(self, fingerprint: str, path: str) -> None:
        """Raises SpiderUsageError: it is a bank of other images."""
        if self.about.dataset != fingerprint:
            raise SpiderUsageError(
                f"{self.path} is a bank of {self.about.name} (fingerprint {self.about.dataset[:12]}), and {path} has "
                f"other images ({fingerprint[:12]}); spider instances {path} --out FILE makes a bank of them"
            )


_REST = ("neighbors", "radii", "centres")


@dataclass(frozen=True)
class _Described:
    """An array as a header says where it lies."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def none(self) -> Array:
        """An array without numbers, which cannot be mapped."""
        return np.empty(self.shape, self.dtype)


def _described(path: Path, header: Mapping[str, Any], size: int) -> tuple[BankAbout, dict[str, _Described]]:
    """What a header says, checked. Raises SpiderError, UnreadableError."""
    said = checked(header.get("__metadata__", {}), dict[str, str], f"{path}: __metadata__")
    if said.get(_MARK) != FORMAT:
        raise SpiderError(f"{path}: no bank of instances of format {FORMAT}; spider instances makes one")
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        each = checked(entry, _Entry, f"{path}: {name}")
        start, stop = each.data_offsets
        dtype = _TYPES.get(each.dtype)
        if dtype is None or not 0 <= start <= stop <= size or stop - start != dtype.itemsize * math.prod(each.shape):
            raise SpiderError(f"{path}: damaged: {name} is {each.dtype} {each.shape} in bytes {start} to {stop}")
        found[name] = _Described(dtype, tuple(each.shape), start)
    about = checked(parse_json(said.get("about", ""), f"{path}: about"), BankAbout, f"{path}: about")
    missing = [name for name in ("features", *_REST) if name not in found]
    if missing:
        raise SpiderError(f"{path}: damaged: it has no {missing[0]}")
    shapes = found["features"].shape, found["neighbors"].shape, found["centres"].shape
    if [len(shape) for shape in shapes] != [2, 2, 1]:
        raise SpiderError(f"{path}: damaged: arrays of shapes {shapes}")
    (images, dim), (_, neighbors), (centres,) = shapes
    expected = BankShape(images, dim, neighbors, centres, "features_flipped" in found, "labels" in found).arrays()
    for name, (dtype, shape) in expected.items():
        if (found[name].dtype, found[name].shape) != (dtype, shape):
            raise SpiderError(
                f"{path}: damaged: {name} is {found[name].dtype} {found[name].shape}, not {dtype} {shape}"
            )
    return about, found


@dataclass(frozen=True)
class _Entry:
    """Of an array, in a header of safetensors."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@contextmanager
def new_bank(path: Path, about: BankAbout, shape: BankShape) -> Iterator[dict[str, Array]]:
    """The arrays of a new bank, mapped, to be filled within the block. The file appears whole, or not at all.

    A reader of the mapped `features` in another process is told their place by `filename` and `offset`.
    """
    header: dict[str, Any] = {"__metadata__": {_MARK: FORMAT, "about": json.dumps(asdict(about))}}
    start, starts = 0, {}
    for name, (dtype, sides) in shape.arrays().items():
        stop = start + dtype.itemsize * math.prod(sides)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(sides), "data_offsets": [start, stop]}
        starts[name], start = start, stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open_whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + start)
        file.flush()
        arrays: dict[str, Array] = {}
        for name, (dtype, sides) in shape.arrays().items():
            where = 8 + len(text) + starts[name]
            empty = not math.prod(sides)
            arrays[name] = np.empty(sides, dtype) if empty else np.memmap(file.name, dtype, "r+", where, sides)
        yield arrays
        for array in arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
