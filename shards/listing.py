"""From the paths of files to numbered images with keys and labels: pure functions of names.

- Files are ordered by path, folder by folder, by code point.
- Hidden files, and files without an image's suffix, are no images: they are passed over, and counted by suffix.
- Folders that all images share are dropped: NAME/CLASS/FILE and CLASS/FILE are the same set.
- The key is the path without its suffix, dots written as underscores (a WebDataset key ends at the first dot). Where
  paths would share a key, one keeps it, first of all one without dots; the others' keys end with a digest of the path.
- If every image then lies in a folder, the first folder names its class. Classes are numbered by name; by value if all
  are whole numbers.
- `dataset.json` (NVIDIA's datasets: {"labels": [[path, label], ...]} or {"labels": null}), in a folder that all images
  share, decides the labels instead of folders. A label is a whole number, or a text that names a class. Images without
  an entry are kept without a label, and counted. With labels=vector a label is a list of numbers (or the numbers that
  stand behind the path), as many for every image.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from shards.errors import ShardsError
from shards.images import SUFFIXES, BadImage

LABELS_FILE = "dataset.json"
MAX_KEY_BYTES = 92  # with its suffix a key fits the first field of a tar header: every header is one block
MAX_CLASSES = 1_000_000
MAX_VECTOR = 65_536  # numbers in a label

Labels = Literal["class", "vector", "none"]
Vector = tuple[float, ...]

_DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be packed."""

    name: str  # as the source calls it; what reports name
    key: str
    label: int  # -1: none
    vector: Vector = ()  # of numbers, where labels are vectors; (): none


@dataclass(frozen=True, slots=True)
class BadFile:
    """One that cannot be, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a source holds, in packing order."""

    items: list[Item]
    classes: list[str]  # empty: no labels
    bad: list[BadFile]
    passed_over: dict[str, int] = field(default_factory=dict)  # files that are no images, how many by suffix
    unlabelled: int = 0  # images that a file of labels does not name
    vector_dim: int = 0  # numbers in a label; 0: labels are no vectors

    def with_labels(self, labels: Labels) -> Listing:
        """The same images: with the labels that they have, or without any.

        Raises:
            ShardsError: vectors are asked for, and there are none.
        """
        if labels == "vector" and not self.vector_dim:
            raise ShardsError("labels=vector: the images have no labels that are vectors")
        if labels != "none":
            return self
        items = [Item(item.name, item.key, -1) for item in self.items]
        return Listing(items, [], self.bad, self.passed_over)


def list_files(
    names: Iterable[str], bad: Iterable[BadFile], read: Callable[[str], bytes], labels: Labels = "class"
) -> Listing:
    """The listing of a source whose files have these relative paths; `bad` are those already refused.

    Args:
        read: gives a file's content, and is asked for `dataset.json` only.
        labels: "class", "vector" or "none": which labels to look for.

    Raises:
        ShardsError: `dataset.json` is not one, or has other labels than those asked for.
    """
    all_names = set(names)
    found = sorted((name for name in all_names if _is_image(name)), key=lambda name: name.split("/"))
    images = [name for name in found if _is_plain(name)]
    unreadable = [
        BadFile(ascii(name)[1:-1], "the name holds characters that are not text")
        for name in found
        if not _is_plain(name)
    ]
    shared = _shared_folder(images)
    labels_file = next((name for name in _candidates(shared) if name in all_names), None)
    classes: list[str] = []
    label_of: dict[str, int] = {}
    vector_of: dict[str, Vector] = {}
    if labels == "vector" and labels_file is None:
        raise ShardsError(f"labels=vector needs a {LABELS_FILE} beside the images, and there is none")
    if labels == "class" and labels_file is None:
        classes, label_of = _labels_of_folders(images, shared)
    elif labels != "none" and labels_file is not None:
        try:
            content = read(labels_file)
        except BadImage as error:
            raise ShardsError(f"{labels_file}: {error}") from None
        rows = _rows_of_file(labels_file, content, images)
        if labels == "vector":
            vector_of = _vectors(labels_file, rows)
        else:
            classes, label_of = _classes(labels_file, rows)

    keys = _keys([name.removeprefix(shared) for name in images])
    items = [
        Item(name, key, label_of.get(name, -1), vector_of.get(name, ())) for name, key in zip(images, keys, strict=True)
    ]
    passed_over = Counter(PurePosixPath(name).suffix.lower() for name in all_names - set(found) - {labels_file})
    known = len(label_of) or len(vector_of)
    return Listing(
        items,
        classes,
        sorted([*bad, *unreadable], key=lambda file: file.name),
        dict(passed_over.most_common()),
        unlabelled=len(images) - known if known else 0,
        vector_dim=len(next(iter(vector_of.values()), ())),
    )


def safe_name(name: str) -> str | None:
    """An archive member's relative path in its plain form; None if it leads out of the archive."""
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts else path.as_posix()


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _is_plain(name: str) -> bool:
    return name.isprintable() or not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def _shared_folder(images: list[str]) -> str:
    """The folder that all images share, with its slash; "" if there is none."""
    if not images:
        return ""
    first, last = images[0].split("/")[:-1], images[-1].split("/")[:-1]
    same = 0
    # In sorted order, what the first and the last share is shared by all
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return "".join(f"{part}/" for part in first[:same])


def _candidates(shared: str) -> list[str]:
    """Where dataset.json may lie: in the shared folder, or above it."""
    parts = shared.split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:depth]) + LABELS_FILE for depth in range(len(parts), -1, -1)]


def _keys(names: list[str]) -> list[str]:
    """A key for every path. No two are the same; one that collides with no other reads like its path."""
    stems = [name[: -len(PurePosixPath(name).suffix)] for name in names]
    taken: set[str] = set()
    keys = [""] * len(names)
    # A path without dots is its own key, so it comes before one that would have to be renamed to it
    for i in sorted(range(len(names)), key=lambda i: ("." in stems[i], i)):
        key = _shortened(stems[i].replace(".", "_"))
        keys[i] = key if key not in taken else _digested(stems[i].replace(".", "_"), names[i])
        taken.add(keys[i])
    return keys


def _shortened(key: str) -> str:
    return key if len(key.encode(errors="replace")) <= MAX_KEY_BYTES else _digested(key, key)


def _digested(key: str, of: str) -> str:
    """The beginning of a key, and a digest."""
    digest = hashlib.sha256(of.encode(errors="replace")).hexdigest()[:_DIGEST_CHARACTERS]
    room = MAX_KEY_BYTES - _DIGEST_CHARACTERS - 1
    return f"{key.encode(errors='replace')[:room].decode(errors='ignore')}-{digest}"


def _labels_of_folders(images: list[str], shared: str) -> tuple[list[str], dict[str, int]]:
    """Class names, and the label of every image; both empty unless every image lies in a folder."""
    folders = [name.removeprefix(shared).split("/")[:-1] for name in images]
    if not all(folders):
        return [], {}
    names = {parts[0] for parts in folders}
    classes = sorted(names, key=lambda name: (int(name), name)) if all(map(_is_whole, names)) else sorted(names)
    label_of_class = {name: label for label, name in enumerate(classes)}
    return classes, {image: label_of_class[parts[0]] for image, parts in zip(images, folders, strict=True)}


def _is_whole(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _rows_of_file(name: str, content: bytes, images: list[str]) -> dict[str, Any]:
    """The label of every image that the file names, as it stands there; empty if the file has no labels."""
    try:
        rows = json.loads(content)["labels"]
        if rows is None:
            return {}
        # [path, 1, 0, 0] is what some tools write for [path, [1, 0, 0]]
        pairs = [(str(row[0]), row[1] if len(row) == 2 else list(row[1:])) for row in rows]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ShardsError(f'{name}: not {{"labels": [[path, label], ...]}}: {error}') from None
    folder = name.removesuffix(LABELS_FILE)
    there = set(images)
    found = {}
    for path, label in pairs:
        plain = posixpath.normpath(path.replace("\\", "/"))  # written on Windows, or as ./path
        image = next((each for each in (f"{folder}{path}", f"{folder}{plain}") if each in there), None)
        if image is not None and label is not None:
            found[image] = label
    if images and pairs and not found:
        raise ShardsError(f"{name}: names none of the images: it names {pairs[0][0]!r}, and there is {images[0]!r}")
    return found


def _classes(name: str, rows: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    """Class names, and the number of the class of every image."""
    if rows and all(isinstance(label, str) for label in rows.values()):
        classes = sorted(set(rows.values()))
        number_of = {text: number for number, text in enumerate(classes)}
        return classes, {image: number_of[text] for image, text in rows.items()}
    for image, label in rows.items():
        if isinstance(label, list):
            raise ShardsError(
                f"{name}: the label of {image} is {_short(label)}, not a class: --labels vector keeps such labels, "
                "--labels none drops them"
            )
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise ShardsError(
                f"{name}: the label of {image} is {_short(label)}; known: whole numbers from 0 to {MAX_CLASSES - 1} "
                "for all images, or texts for all; --labels none drops them"
            )
    return [str(number) for number in range(max(rows.values(), default=-1) + 1)], rows


def _vectors(name: str, rows: dict[str, Any]) -> dict[str, Vector]:
    """The vector of every image."""
    dim = None
    vectors = {}
    for image, label in rows.items():
        numbers = label if isinstance(label, list) else [label]
        numeric = all(type(number) in (int, float) and abs(number) < float("inf") for number in numbers)
        if not numeric or not 0 < len(numbers) <= MAX_VECTOR:
            raise ShardsError(f"{name}: the label of {image} is {_short(label)}: not 1 to {MAX_VECTOR} finite numbers")
        dim = dim or len(numbers)
        if len(numbers) != dim:
            raise ShardsError(f"{name}: the label of {image} has {len(numbers)} numbers, that of the first image {dim}")
        vectors[image] = tuple(map(float, numbers))
    return vectors


def _short(label: object) -> str:
    text = repr(label)
    return text if len(text) <= 60 else f"{text[:57]}..."
