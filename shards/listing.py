"""From the paths of files to numbered images with keys and labels: pure functions of names.

- Files are ordered by path, folder by folder, by code point.
- Hidden files, and files without an image's suffix, are no images: they are passed over, and counted.
- Folders that all images share are dropped: NAME/CLASS/FILE and CLASS/FILE are the same set.
- The key is the path without its suffix, dots written as underscores (a WebDataset key ends at the first dot).
- If every image then lies in a folder, the first folder names its class. Classes are numbered by name; by value if all
  are whole numbers.
- `dataset.json` (NVIDIA's datasets: {"labels": [[path, number], ...]} or {"labels": null}), in a folder that all images
  share, decides the labels instead of folders.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from shards.errors import ShardsError
from shards.images import SUFFIXES, BadImage

LABELS_FILE = "dataset.json"
MAX_KEY_BYTES = 92  # with its suffix a key fits the first field of a tar header: every header is one block
MAX_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be packed."""

    name: str  # as the source calls it; what reports name
    key: str
    label: int  # -1: none


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
    passed_over: int = 0  # files that are no images


def list_files(names: Iterable[str], bad: Iterable[BadFile], read: Callable[[str], bytes]) -> Listing:
    """The listing of a source whose files have these relative paths; `bad` are those already refused.

    `read` gives a file's content, and is asked for `dataset.json` only.

    Raises:
        ShardsError: `dataset.json` is not one.
    """
    all_names = set(names)
    images = sorted((name for name in all_names if _is_image(name)), key=lambda name: name.split("/"))
    shared = _shared_folder(images)
    labels_file = next((name for name in _candidates(shared) if name in all_names), None)
    if labels_file is None:
        classes, label_of = _labels_of_folders(images, shared)
    else:
        try:
            content = read(labels_file)
        except BadImage as error:
            raise ShardsError(f"{labels_file}: {error}") from None
        classes, label_of = _labels_of_file(labels_file, content, images)

    items: list[Item] = []
    refused = list(bad)
    name_of_key: dict[str, str] = {}
    for name in images:
        key = _key(name.removeprefix(shared))
        if not _is_plain(name):
            refused.append(BadFile(ascii(name)[1:-1], "the name holds characters that are not text"))
        elif key in name_of_key:
            refused.append(BadFile(name, f"duplicate key {key!r}: {name_of_key[key]} has it"))
        elif label_of and name not in label_of:
            refused.append(BadFile(name, f"no label in {labels_file}"))
        else:
            name_of_key[key] = name
            items.append(Item(name, key, label_of.get(name, -1)))
    passed_over = len(all_names) - len(images) - (labels_file is not None)
    return Listing(items, classes, sorted(refused, key=lambda file: file.name), passed_over)


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


def _key(name: str) -> str:
    key = name[: -len(PurePosixPath(name).suffix)].replace(".", "_")
    encoded = key.encode(errors="replace")
    if len(encoded) <= MAX_KEY_BYTES:
        return key
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[: MAX_KEY_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"


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


def _labels_of_file(name: str, content: bytes, images: list[str]) -> tuple[list[str], dict[str, int]]:
    """Class names ("0", "1", ...), and the label of every image that the file names; both empty if it has no labels."""
    try:
        rows = json.loads(content)["labels"]
        if rows is None:
            return [], {}
        pairs = [(path, label) for path, label in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise ShardsError(f'{name}: not {{"labels": [[path, number], ...]}}: {error}') from None
    folder = name.removesuffix(LABELS_FILE)
    labels = {}
    for path, label in pairs:
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise ShardsError(
                f"{name}: the label of {path} is {label!r}; known: whole numbers from 0 to {MAX_CLASSES - 1}"
            )
        labels[f"{folder}{path}"] = label
    known = {image: labels[image] for image in images if image in labels}
    if images and not known:
        raise ShardsError(f"{name}: names none of the images, such as {images[0]}")
    return [str(number) for number in range(max(known.values(), default=-1) + 1)], known
