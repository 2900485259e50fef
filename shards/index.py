"""index.json: what a packed dataset is, and what every file in it must be.

    OUT/index.json             this
        000000.tar ...         plain WebDataset shards: KEY.npy (or KEY.png, KEY.jpg), KEY.cls if labelled, KEY.json
        000000.offsets ...     where each image of the shard lies (shards.samples)
        contact-sheet.png      to look at
        bad.jsonl              {"name", "reason"} of every input file that was not packed; absent if none

Needs no torch, so that a login node can read it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shards.choices import Crop, Encoding
from shards.errors import ShardsError, ShardsUsageError

VECTORS_NAME = "labels.npy"
INDEX_NAME = "index.json"
FORMAT_VERSION: Literal[1] = 1
MAX_INDEX_BYTES = 256 << 20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardRecord(_Record):
    """One tar and its offsets file, which has the same name but for the suffix."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+\.tar$")  # a bare name: an index must not lead out of its folder
    count: int = Field(gt=0)
    bytes: int = Field(gt=0)
    sha256: Sha256
    offsets_sha256: Sha256

    @property
    def offsets_name(self) -> str:
        """The name of the shard's offsets file."""
        return self.name.removesuffix(".tar") + ".offsets"


class SourceRecord(_Record):
    """What was packed: the `files` chosen of the `available`, of which `bad` could not be used."""

    kind: str
    name: str
    available: int = Field(ge=0)
    files: int = Field(ge=0)
    bad: int = Field(ge=0)
    digest: Sha256  # over the key and the content of every chosen file, in order


class VectorRecord(_Record):
    """Labels that are vectors: float32 [count, dim] in labels.npy, a row for each image; see shards.vectors."""

    dim: int = Field(gt=0)
    sha256: Sha256  # of the file


class PackOptions(_Record):
    """The options of `pack` that decide what is written. None: taken from the images themselves."""

    resolution: int | None = Field(None, ge=1)
    channels: Literal[1, 3] | None = None
    crop: Crop = "center"
    subset: int | None = Field(None, ge=1)
    long_tail: float | None = Field(None, gt=1, le=1e6)
    seed: int = Field(0, ge=0)  # of the subset, or the long tail
    shard_mb: float = Field(64, gt=0)
    encoding: Encoding = "auto"
    labels: Literal["class", "vector", "none"] = "class"
    max_megapixels: float = Field(80, gt=0, le=178)  # see shards.images


def pack_options(**options: object) -> PackOptions:
    """The options of `pack`. Raises ShardsUsageError: the option, the value found and what would be valid."""
    if options["subset"] is not None and options["long_tail"] is not None:
        raise ShardsUsageError(f"long_tail is {options['long_tail']!r}, which goes without subset: it says how many")
    if options["subset"] is None and options["long_tail"] is None:
        options["seed"] = 0  # of no meaning then: the same dataset whatever it is
    try:
        return PackOptions.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ShardsUsageError(f"{first['loc'][0]} is {first['input']!r}: {first['msg']}") from None


class DatasetIndex(_Record):
    """A packed dataset: `count` images, uint8 [channels, height, width], numbered in the order of the shards."""

    format_version: Literal[1] = FORMAT_VERSION
    count: int = Field(gt=0)
    channels: Literal[1, 3]
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    classes: list[str]  # names by label; empty if unlabelled
    vectors: VectorRecord | None = None  # where labels are vectors
    fingerprint: Sha256  # of keys, labels and pixels in order, whatever the encoding and the size of the shards
    rules: dict[str, str]  # how image files became pixels, in words
    jpeg_pixels: Sha256 | None = None  # what the packer's decoder made of a probe; None: no image is a JPEG
    options: PackOptions
    source: SourceRecord
    shards: list[ShardRecord] = Field(min_length=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.channels, self.height, self.width

    @property
    def shard_counts(self) -> list[int]:
        """Images per shard, in order."""
        return [shard.count for shard in self.shards]


def parse_index(text: bytes, where: str) -> DatasetIndex:
    """The index in `text`; `where` names the file in errors.

    Raises:
        ShardsError: not an index, or not a consistent one.
    """
    if len(text) > MAX_INDEX_BYTES:
        raise ShardsError(f"{where}: larger than {MAX_INDEX_BYTES >> 20} MB, which no index is")
    try:
        index = DatasetIndex.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ShardsError(f"{where}: not an index of format {FORMAT_VERSION}: {key}: {first['msg']}") from None
    total = sum(index.shard_counts)
    if total != index.count:
        raise ShardsError(f"{where}: count is {index.count}, but the shards hold {total}")
    names = [shard.name for shard in index.shards]
    if len(set(names)) != len(names):
        raise ShardsError(f"{where}: a shard is listed twice")
    return index


def write_index(index: DatasetIndex) -> bytes:
    """The bytes of index.json."""
    return index.model_dump_json(indent=1).encode() + b"\n"
