"""From the paths of files to numbered images with keys and labels: pure functions of names.

- Files are ordered by path, folder by folder, by code point.
- Hidden files, and files without an image's suffix, are no images: they are passed over, and counted by suffix.
- Folders that all images share are dropped: NAME/CLASS/FILE and CLASS/FILE are the same set.
- The key is the path without its suffix, dots written as underscores (a WebDataset key ends at the first dot). Where
  paths would share a key, one keeps it, first of all one without dots; the others' keys end with a digest of the path.
- Labels: shards.labels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from shards.errors import ShardsError
from shards.images import SUFFIXES
from shards.labels import Labels, Vector, find_labels, find_labels_file, is_plain_text

MAX_KEY_BYTES = 92  # with its suffix a key fits the first field of a tar header: every header is one block

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
    passed_over: dict[str, int] = field(
        default_factory=dict
    )  # files that are no images, how many by type: a suffix, mostly
    remarks: list[str] = field(default_factory=list)  # what the person who packs should know, a line each
    vector_dim: int = 0  # numbers in a label; 0: labels are no vectors
    dropped_classes: int = 0  # that the images had, where no labels were asked for

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
        return Listing(items, [], self.bad, self.passed_over, dropped_classes=len(self.classes))


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
    images = [name for name in found if is_plain_text(name)]
    unreadable = [
        BadFile(ascii(name)[1:-1], "the name holds characters that are not text")
        for name in found
        if not is_plain_text(name)
    ]
    shared = _shared_folder(images)
    labelling = find_labels(images, shared, all_names, read, labels)
    paths = [name.removeprefix(shared) for name in images]
    keys = distinct_keys([_stem(path) for path in paths], paths)
    items = [
        Item(name, key, labelling.label_of.get(name, -1), labelling.vector_of.get(name, ()))
        for name, key in zip(images, keys, strict=True)
    ]
    others = all_names - set(found) - {find_labels_file(shared, all_names)}
    return Listing(
        items,
        labelling.classes,
        sorted([*bad, *unreadable], key=lambda file: file.name),
        dict(Counter(_type_of(name) for name in sorted(others)).most_common()),
        [*labelling.remarks, *_twins(images)],
        vector_dim=len(next(iter(labelling.vector_of.values()), ())),
        dropped_classes=labelling.dropped_classes,
    )


def safe_name(name: str) -> str | None:
    """An archive member's relative path in its plain form; None if it leads out of the archive."""
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts else path.as_posix()


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _type_of(name: str) -> str:
    """What to count a file under that is no image."""
    return "hidden" if _is_hidden(name) else PurePosixPath(name).suffix.lower() or "without a suffix"


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


def _twins(images: list[str]) -> list[str]:
    """A remark on images whose paths differ in the suffix only: a photo and its mask, or its thumbnail."""
    stems: dict[str, list[str]] = {}
    for name in images:
        stems.setdefault(_stem(name), []).append(name)
    twins = [names for names in stems.values() if len(names) > 1]
    count, first = sum(map(len, twins)), ", ".join(twins[0]) if twins else ""
    said = (
        f"warning: {count:,} images differ from another in the suffix of their name only, and are all packed: {first}"
    )
    return [said] if twins else []


def distinct_keys(stems: Sequence[str], names: Sequence[str]) -> list[str]:
    """A key for every image. No two are the same; one that collides with no other reads like its stem.

    Args:
        stems: the paths of the images without their suffixes.
        names: texts that are all different, whose digests tell colliding ones apart.
    """
    taken: set[str] = set()
    keys = [""] * len(names)
    # A path without dots is its own key, so it comes before one that would have to be renamed to it
    for i in sorted(range(len(names)), key=lambda i: ("." in stems[i], i)):
        plain = stems[i].replace(".", "_")
        key, attempt = _shortened(plain), 0
        while key in taken:  # more than once only where somebody named a file by the digest of another
            key, attempt = _digested(plain, names[i] + "\0" * attempt), attempt + 1
        keys[i] = key
        taken.add(key)
    return keys


def _stem(name: str) -> str:
    return name[: -len(PurePosixPath(name).suffix)]


def _shortened(key: str) -> str:
    return key if len(key.encode(errors="replace")) <= MAX_KEY_BYTES else _digested(key, key)


def _digested(key: str, of: str) -> str:
    """The beginning of a key, and a digest."""
    digest = hashlib.sha256(of.encode(errors="replace")).hexdigest()[:_DIGEST_CHARACTERS]
    room = MAX_KEY_BYTES - _DIGEST_CHARACTERS - 1
    return f"{key.encode(errors='replace')[:room].decode(errors='ignore')}-{digest}"
