"""The labels of images, from the folders that they lie in or from `dataset.json`.

- Class folders: if every image lies in a folder, the first folder names its class. Classes are numbered by name; by
  value if all are whole numbers.
- `dataset.json` (NVIDIA's datasets: {"labels": [[path, label], ...]} or {"labels": null}), in a folder that all images
  share, decides instead of folders. A label is a whole number, or a text that names a class. Images without an entry
  are kept without a label, and counted. With labels=vector a label is a list of numbers (or the numbers that stand
  behind the path), as many for every image.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from shards.errors import ShardsError
from shards.images import BadImage
from untrusted.errors import UnreadableError
from untrusted.json_data import parse_json

LABELS_FILE = "dataset.json"
MAX_CLASSES = 1_000_000
MAX_VECTOR = 65_536  # numbers in a label

Labels = Literal["class", "vector", "none"]
Vector = tuple[float, ...]

_FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True)
class Labelling:
    """The labels of images by their paths: numbers of classes, or vectors, or neither."""

    classes: list[str] = field(default_factory=list)
    label_of: dict[str, int] = field(default_factory=dict)
    vector_of: dict[str, Vector] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # what the person who packs should know, a line each
    dropped_classes: int = 0  # that there are, where no labels are asked for


def find_labels(
    images: list[str], shared: str, files: Collection[str], read: Callable[[str], bytes], labels: Labels
) -> Labelling:
    """The labels of the images with these paths, which all begin with the folder `shared`.

    Args:
        files: the paths of all files, images or not.
        read: gives a file's content, and is asked for `dataset.json` only.

    Raises:
        ShardsError: `dataset.json` is not one, or has other labels than those asked for.
    """
    labels_file = find_labels_file(shared, files)
    if labels == "none":
        return Labelling(dropped_classes=_count_classes(images, shared, files, read))
    if labels_file is None:
        if labels == "vector":
            raise ShardsError(f"labels=vector needs a {LABELS_FILE} beside the images, and there is none")
        return _labels_of_folders(images, shared)
    rows, remarks = _match(labels_file, _read_rows(labels_file, read), images)
    if labels == "vector":
        return Labelling(vector_of=_vectors(labels_file, rows), remarks=remarks)
    classes, label_of = _classes(labels_file, rows)
    return Labelling(classes, label_of, remarks=remarks)


def _count_classes(images: list[str], shared: str, files: Collection[str], read: Callable[[str], bytes]) -> int:
    """How many there are; 0 where they cannot be read, which is no error where nobody asked for them."""
    try:
        return len(find_labels(images, shared, files, read, "class").classes)
    except ShardsError:
        return 0


def find_labels_file(shared: str, files: Collection[str]) -> str | None:
    """The path of dataset.json, if there is one in the shared folder, or above it."""
    parts = shared.split("/")[:-1]
    candidates = ["".join(f"{part}/" for part in parts[:depth]) + LABELS_FILE for depth in range(len(parts), -1, -1)]
    return next((name for name in candidates if name in files), None)


def is_plain_text(text: str) -> bool:
    """Whether a text can be stored as UTF-8 and shown in a line: neither control characters nor halves of letters."""
    return text.isprintable() or not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def _labels_of_folders(images: list[str], shared: str) -> Labelling:
    folders = [name.removeprefix(shared).split("/")[:-1] for name in images]
    if not all(folders):
        return Labelling()
    names = {parts[0] for parts in folders}
    classes = sorted(names, key=lambda name: (int(name), name)) if all(map(_is_whole, names)) else sorted(names)
    label_of_class = {name: label for label, name in enumerate(classes)}
    label_of = {image: label_of_class[parts[0]] for image, parts in zip(images, folders, strict=True)}
    return Labelling(classes, label_of, remarks=_look_alikes(classes))


def _is_whole(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _look_alikes(classes: list[str]) -> list[str]:
    """A remark on classes that a reader, or another file system, takes for one."""
    spellings: dict[str, list[str]] = {}
    for name in classes:
        spellings.setdefault(_as_read(name).casefold(), []).append(name)
    same = [names for names in spellings.values() if len(names) > 1]
    named = "; ".join(", ".join(f"{name} ({name.encode().hex(' ')})" for name in names) for names in same[:3])
    return (
        [f"warning: classes differ only in case or in the spelling of a letter, and are kept apart: {named}"]
        if same
        else []
    )


def _as_read(text: str) -> str:
    """Another spelling of the same letters: macOS writes an accent as a character of its own."""
    return unicodedata.normalize("NFC", text)


def _read_rows(name: str, read: Callable[[str], bytes]) -> list[tuple[str, Any]]:
    """Path and label of every row, as they stand there; none if the file has no labels."""
    try:
        content = parse_json(read(name), name)
        if not isinstance(content, dict) or "labels" not in content:
            raise TypeError("it has no labels")
        rows = content["labels"]
        if rows is None:
            return []
        if not isinstance(rows, list):
            raise TypeError(f"labels are {_short(rows)}")
        # [path, 1, 0, 0] is what some tools write for [path, [1, 0, 0]]
        return [(str(row[0]), row[1] if len(row) == 2 else list(row[1:])) for row in rows]
    except UnreadableError as error:
        raise ShardsError(str(error)) from None
    except BadImage as error:
        raise ShardsError(f"{name}: {error}") from None
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ShardsError(f'{name}: not {{"labels": [[path, label], ...]}}: {error}') from None


def _match(name: str, rows: list[tuple[str, Any]], images: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The label of every image that the rows name, and remarks on images and rows that are left."""
    folder = name.removesuffix(LABELS_FILE)
    image_of = {_as_read(image): image for image in images} | {image: image for image in images}
    found: dict[str, Any] = {}
    strangers = []
    for path, label in rows:
        plain = posixpath.normpath(path.replace("\\", "/"))  # written on Windows, or as ./path
        spellings = (f"{folder}{path}", f"{folder}{plain}", _as_read(f"{folder}{plain}"))
        image = next((image_of[each] for each in spellings if each in image_of), None)
        if image is None:
            strangers.append(path)
        elif found.setdefault(image, label) != label:
            raise ShardsError(f"{name}: names {image} twice, with labels {_short(found[image])} and {_short(label)}")
    if images and rows and not found:
        raise ShardsError(f"{name}: names none of the images: it names {rows[0][0]!r}, and there is {images[0]!r}")
    labelled = {image: label for image, label in found.items() if label is not None}
    remarks = []
    if rows and len(labelled) < len(images):
        missing = next(image for image in images if image not in labelled)
        remarks.append(
            f"{len(images) - len(labelled):,} of {len(images):,} images have no label in {name}, and are kept without "
            f"one; the first is {missing}"
        )
    if strangers:
        remarks.append(
            f"{name}: {len(strangers):,} of {len(rows):,} entries name no image; the first is {strangers[0]}"
        )
    return labelled, remarks


def _classes(name: str, rows: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    """Class names, and the number of the class of every image."""
    if rows and all(isinstance(label, str) and label and is_plain_text(label) for label in rows.values()):
        classes = sorted(set(rows.values()))
        number_of = {text: number for number, text in enumerate(classes)}
        return classes, {image: number_of[text] for image, text in rows.items()}
    label_of = {}
    for image, label in rows.items():
        if isinstance(label, list):
            raise ShardsError(
                f"{name}: the label of {image} is {_short(label)}, not a class: `spider pack --labels vector` keeps "
                "such labels, `--labels none` drops them"
            )
        whole = type(label) is int or (type(label) is float and label.is_integer())  # pandas writes 3 as 3.0
        if not whole or not 0 <= label < MAX_CLASSES:
            raise ShardsError(
                f"{name}: the label of {image} is {_short(label)}; known: whole numbers from 0 to {MAX_CLASSES - 1} "
                "for all images, or texts for all; `spider pack --labels none` drops them"
            )
        label_of[image] = int(label)
    return [str(number) for number in range(max(label_of.values(), default=-1) + 1)], label_of


def _vectors(name: str, rows: dict[str, Any]) -> dict[str, Vector]:
    """The vector of every image."""
    if not rows:
        raise ShardsError(f"{name}: labels=vector: no image has a label there")
    dims: Counter[int] = Counter()
    vectors = {}
    for image, label in rows.items():
        numbers = label if isinstance(label, list) else [label]
        if not 0 < len(numbers) <= MAX_VECTOR or not all(map(_is_float32, numbers)):
            raise ShardsError(
                f"{name}: the label of {image} is {_short(label)}; known: 1 to {MAX_VECTOR} finite numbers of 32 bits"
            )
        dims[len(numbers)] += 1
        vectors[image] = tuple(map(float, numbers))
    if len(dims) > 1:
        usual = dims.most_common(1)[0][0]
        other = next(image for image, vector in vectors.items() if len(vector) != usual)
        raise ShardsError(
            f"{name}: the label of {other} has {len(vectors[other])} numbers, those of {dims[usual]:,} others {usual}"
        )
    return vectors


def _is_float32(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= _FLOAT32_MAX


def _short(label: object) -> str:
    text = repr(label)
    return text if len(text) <= 60 else f"{text[:57]}..."
