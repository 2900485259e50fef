"""Lists of images that others have published: which of a source's images are packed, and with which labels.

    FILE                                a line for each image: its path, and perhaps a whole number, its label
    coco-stuff:ANNOTATIONS:SPLIT        what COCO-Stuff's annotations say (`shards.coco`)

Paths are matched by their ends: as many parts of them as all images have in common with the list. Labels of a list
replace those of the source. A class bears the name that its images' folder has, if that is one folder; else its number.
ImageNet-LT's lists (Liu et al. 2019) are known by their names, and must have as many lines as were published.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.coco import SPLITS, coco_stuff
from shards.errors import ShardsError, ShardsUsageError
from shards.listing import Item, Listing
from shards.missing import no_such
from shards.source import Pixels, Source
from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.text import decode

COCO = "coco-stuff:"
_MAX_BYTES = 1 << 30
_PUBLISHED = {"ImageNet_LT_train.txt": 115_846, "ImageNet_LT_val.txt": 20_000, "ImageNet_LT_test.txt": 50_000}


@dataclass(frozen=True)
class ImageList:
    """Some images by their paths.

    Attributes:
        name: of the list, for messages.
        paths: of the images, in the order of the list.
        labels: of each, if they have any.
    """

    name: str
    paths: Sequence[str]
    labels: Sequence[int] | None = None

    @property
    def digest(self) -> str:
        """sha256, in hex, over paths and labels."""
        labels = ["" if self.labels is None else self.labels[row] for row in range(len(self.paths))]
        lines = "".join(f"{path}\0{label}\n" for path, label in zip(self.paths, labels, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()

    def of(self, listing: Listing) -> Listing:
        """The images of a listing that are on the list, in the list's order: numbers that others gave them stay.

        Raises ShardsError: the listing lacks some, or has several of one path.
        """
        found = self._matched([item.name.split("/") for item in listing.items])
        numbers = sorted(found, key=found.__getitem__)
        items, classes = [listing.items[number] for number in numbers], listing.classes
        if self.labels is not None:
            labels = {number: self.labels[found[number]] for number in numbers}
            classes, number_of = _named(labels, listing)
            items = [
                Item(item.name, item.key, number_of[labels[number]], item.vector)
                for number, item in zip(numbers, items, strict=True)
            ]
        named = {path.rpartition("/")[2] for path in self.paths}
        bad = [file for file in listing.bad if file.name.rpartition("/")[2] in named]
        return Listing(items, classes, bad, listing.passed_over, listing.remarks, listing.vector_dim)

    def _matched(self, names: Sequence[Sequence[str]]) -> dict[int, int]:
        """Row of the list by number of the image."""
        first: dict[str, int] = {}
        for row, text in enumerate(self.paths):
            if first.setdefault(text, row) != row:
                raise ShardsError(f"{self.name}: rows {first[text] + 1} and {row + 1} are both {text}")
        rows = [path.split("/") for path in self.paths]
        best: dict[int, int] = {}
        for depth in range(max(map(len, rows)), 0, -1):
            places: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for number, name in enumerate(names):
                places[tuple(name[-depth:])].append(number)
            found = {}
            for row, path in enumerate(rows):
                numbers = places.get(tuple(path[-depth:]), [])
                if len(numbers) == 1:
                    found[numbers[0]] = row
            if len(found) == len(rows):
                return found
            best = max(best, found, key=len)
        missing = sorted({*range(len(rows))} - {*best.values()})
        raise ShardsError(
            f"{self.name}: {len(missing):,} of {len(rows):,} images are not found, or not as one file; the first is "
            f"{self.paths[missing[0]]}"
        )


class ListedSource(Source):
    """The images of a source that are on a list. Raises as `ImageList.of`."""

    def __init__(self, source: Source, chosen: ImageList) -> None:
        self._source, self._digest = source, chosen.digest
        self.kind, self.name, self.roots = source.kind, source.name, source.roots
        self.listing = chosen.of(source.listing)
        number_of = {item.name: number for number, item in enumerate(source.listing.items)}
        self._numbers = [number_of[item.name] for item in self.listing.items]

    def read(self, number: int) -> bytes | Pixels:
        """See Source."""
        return self._source.read(self._numbers[number])

    def stamp(self) -> str:
        """See Source."""
        return f"{self._source.stamp()}, of which {self._digest}"


def annotations_of(text: str) -> str | None:
    """The folder that `coco-stuff:ANNOTATIONS:SPLIT` names; None: a list is a file."""
    return text.removeprefix(COCO).rpartition(":")[0] if text.startswith(COCO) else None


def read_list(place: str | Path) -> ImageList:
    """The list that a text names: a file, or `coco-stuff:ANNOTATIONS:SPLIT`.

    Raises:
        ShardsUsageError: there is no such list.
        ShardsError: it cannot be read, or is not what was published under its name.
    """
    text = str(place)
    if (folder := annotations_of(text)) is not None:
        split = text.rpartition(":")[2]
        if split not in SPLITS or not folder:
            raise ShardsUsageError(f"list is {text!r}; known: FILE, {COCO}ANNOTATIONS:SPLIT of {', '.join(SPLITS)}")
        return ImageList(text, coco_stuff(Path(folder), split))
    path = Path(place)
    if not path.is_file():
        raise ShardsUsageError(no_such(text, "file"))
    try:
        lines = decode(read_regular(path, _MAX_BYTES), text).splitlines()
    except UnreadableError as error:
        raise ShardsError(str(error)) from None
    rows = [line.rsplit(None, 1) for line in lines if line.strip()]
    expected = _PUBLISHED.get(path.name, len(rows))
    if len(rows) != expected or not rows:
        published = f"; {expected:,} were published under this name" if expected else ""
        raise ShardsError(f"{path}: has {len(rows):,} images{published}")
    labelled = [len(row) == 2 and row[1].isascii() and row[1].isdigit() and len(row[1]) < 10 for row in rows]
    if all(labelled):
        return ImageList(text, [row[0] for row in rows], [int(row[1]) for row in rows])
    if any(labelled) and any(len(row) == 1 for row in rows):
        raise ShardsError(f"{path}: row {labelled.index(False) + 1} has no label, and others have one")
    return ImageList(text, [line.strip() for line in lines if line.strip()])


def _named(labels: dict[int, int], listing: Listing) -> tuple[list[str], dict[int, int]]:
    """The classes' names in the order of their labels, and which number each label gets."""
    folders = defaultdict(set)
    for number, label in labels.items():
        folders[label].add(listing.items[number].label)
    order = sorted(folders)
    one = all(len(each) == 1 and min(each) >= 0 for each in folders.values())
    distinct = len({next(iter(each)) for each in folders.values()}) == len(order)
    names = [listing.classes[next(iter(folders[label]))] if one and distinct else str(label) for label in order]
    return names, {label: number for number, label in enumerate(order)}
