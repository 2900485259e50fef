"""The images of COCO-Stuff that layouts are learnt from, by its annotations: the splits of sg2im, LostGAN and IC-GAN.

    ANNOTATIONS/instances_train2017.json, stuff_train2017.json, instances_val2017.json, stuff_val2017.json

An object counts if its box covers more than 2 % of the image and its class is not `other`; a crowd counts in val alone.
An image counts if it has from 3 to 8 such objects, things and stuff together, and any annotation of stuff. Images come
in the order of the instances' file. Of val the first 1,024 are `val` and the others `eval`. An image of `eval` is
`seen` if an image of `train` has the same set of classes, else `unseen`. Rules: facebookresearch/ic_gan,
data_utils/cocostuff_dataset.py. Of the published annotations there are 75,777 / 1,024 / 2,050 = 675 + 1,375 images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from shards.errors import ShardsError, ShardsUsageError
from shards.missing import no_such
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

SPLITS = {"train": 75_777, "val": 1_024, "eval": 2_050, "seen": 675, "unseen": 1_375}  # images, of COCO 2017

_MAX_BYTES = 1 << 32
_LEAST_SHARE = 0.02
_OBJECTS = (3, 8)
_VAL = 1_024
_WHOLE = {"train": 118_287, "val": 5_000}  # images of COCO 2017, whose splits are known

Sets = dict[str, frozenset[int]]  # the classes of each image, by its file's name


class _Image(TypedDict):
    id: int
    file_name: str
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class _Category(TypedDict):
    id: int
    name: str


class _Annotation(TypedDict):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]


class _File(TypedDict):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[dict[str, Any]]


def coco_stuff(folder: Path, split: str) -> list[str]:
    """The names of the image files of a split, one of `SPLITS`.

    Raises:
        ShardsUsageError: a file of annotations is not there.
        ShardsError: it is none; or it is COCO 2017's, and the split has another size than it has.
    """
    if split == "train":
        sets, whole = _read(folder, "train")
        found = [*sets]
    else:
        sets, whole = _read(folder, "val")
        names = [*sets]
        found = names[:_VAL] if split == "val" else names[_VAL:]
    if split in ("seen", "unseen"):
        known = {*_read(folder, "train")[0].values()}
        found = [name for name in found if (sets[name] in known) == (split == "seen")]
    if whole and len(found) != SPLITS[split]:
        raise ShardsError(f"{folder}: the split {split} has {len(found):,} images, and {SPLITS[split]:,} are published")
    return found


def _read(folder: Path, part: str) -> tuple[Sets, bool]:
    """The images that count, with their classes; and whether the annotations are all of COCO 2017's."""
    things, stuff = (_file(folder / f"{kind}_{part}2017.json") for kind in ("instances", "stuff"))
    sizes = {image["id"]: image["width"] * image["height"] for image in things["images"]}
    objects: Mapping[int, list[int]] = defaultdict(list)
    with_stuff = set()
    for file in (things, stuff):
        other = {category["id"] for category in file["categories"] if category["name"] == "other"}
        for row in file["annotations"]:
            each = checked(row, _Annotation, f"{folder}: annotations")
            if file is stuff:
                with_stuff.add(each["image_id"])
            if part == "train" and row.get("iscrowd"):
                continue
            share = each["bbox"][2] * each["bbox"][3] / sizes.get(each["image_id"], float("inf"))
            if share > _LEAST_SHARE and each["category_id"] not in other:
                objects[each["image_id"]].append(each["category_id"])
    least, most = _OBJECTS
    sets = {
        image["file_name"]: frozenset(objects[image["id"]])
        for image in things["images"]
        if image["id"] in with_stuff and least <= len(objects[image["id"]]) <= most
    }
    return sets, len(things["images"]) == _WHOLE[part]


def _file(path: Path) -> _File:
    try:
        return checked(read_json(path, _MAX_BYTES), _File, str(path))
    except FileNotFoundError:
        raise ShardsUsageError(no_such(path, "file")) from None
    except UnreadableError as error:
        raise ShardsError(str(error)) from None
