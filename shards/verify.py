"""Is a packed dataset all there and unharmed? Everything that index.json promises, checked against the files.

For every shard: that it is there, its sha256, and its offsets file's; every tar member, by kind and name; every image,
by its place, CRC-32, shape and label; keys, over all shards; the counts; and the fingerprint, from all pixels. Nothing
is executed or unpacked. All that is bad is named, not only the first.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from shards.encodings import SUFFIXES, BadSample, check_decoder, decode, suffix_of
from shards.errors import ShardsError, ShardsMachineError
from shards.index import INDEX_NAME, DatasetIndex, ShardRecord
from shards.location import Location
from shards.parallel import map_ordered, usable_cores
from shards.progress import Bar
from shards.samples import fingerprint, parse_offsets, sample_digest
from shards.vectors import read_vectors
from untrusted.counts import counted
from untrusted.errors import UnreadableError
from untrusted.json_data import parse_json

_MAX_MEMBER_BYTES = 1 << 30


@dataclass(frozen=True)
class Report:
    """What `verify` found."""

    path: str
    shards: int
    images: int  # that are there and whole
    problems: list[str]  # one line each, naming shard and image

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return not self.problems


@dataclass
class _Findings:
    """Of one shard: what is bad, the keys, and the digests of the images that are whole."""

    problems: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


def verify(
    path: str | Path, *, workers: int | None = None, progress: bool = False, cache_dir: Path | None = None
) -> Report:
    """Check every byte of the dataset in a folder, or at a URL (its shards are fetched into the cache).

    Raises:
        ShardsUsageError: no dataset is there.
        ShardsError: its index cannot be read, or JPEGs decode to other pixels here than where they were packed.
        ShardsMachineError: the other side of a URL does not answer, or a transfer broke off.
    """
    location = Location(path, cache_dir)
    index = location.index
    check_decoder(index.jpeg_pixels, location.path)
    findings: list[_Findings] = []
    with Bar(total=index.count, desc="verify", unit="img", shown=progress, leave=False) as bar:
        for found in map_ordered(_check_shard, location, index.shards, workers=workers or usable_cores()):
            bar.update(index.shards[len(findings)].count)
            findings.append(found)
    problems = [problem for found in findings for problem in found.problems]
    problems += _repeated_keys(index, findings)
    digests = [digest for found in findings for digest in found.digests]
    if index.vectors is not None:
        try:
            read_vectors(location, index.vectors, index.count)
        except ShardsError as error:
            problems.append(str(error))
    if not problems and fingerprint(digests, index.vectors) != index.fingerprint:
        problems.append(f"{INDEX_NAME}: the fingerprint is not that of the images")
    return Report(str(path), len(index.shards), len(digests), problems)


def _repeated_keys(index: DatasetIndex, findings: list[_Findings]) -> list[str]:
    shard_of_key: dict[str, str] = {}
    problems = []
    for shard, found in zip(index.shards, findings, strict=True):
        for key in found.keys:
            if key in shard_of_key:
                problems.append(f"{shard.name}: duplicate key {key!r}: {shard_of_key[key]} has it")
            shard_of_key.setdefault(key, shard.name)
    return problems


def _check_shard(location: Location, shard: ShardRecord) -> _Findings:
    found = _Findings()
    tar = _check_file(location, shard.name, shard.sha256, found)
    offsets_file = _check_file(location, shard.offsets_name, shard.offsets_sha256, found)
    offsets = None
    if offsets_file is not None:
        try:
            offsets = parse_offsets(offsets_file.read_bytes(), shard.count, shard.offsets_name)
        except ShardsError as error:
            found.problems.append(str(error))
    if tar is not None:
        _check_images(tar, shard, location.index, offsets, found)
    return found


def _check_file(location: Location, name: str, sha256: str, found: _Findings) -> Path | None:
    """The file on this machine, if it is there.

    Raises:
        ShardsMachineError: it could not be fetched, so that nothing is known of it.
    """
    try:
        path = location.file(name, sha256)
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        found.problems.append(f"{name}: missing")
        return None
    except ShardsMachineError:
        raise
    except (ShardsError, OSError) as error:
        found.problems.append(f"{name}: {error}")
        return None
    if actual != sha256:
        found.problems.append(f"{name}: damaged: its sha256 is not the one in {INDEX_NAME}")
    return path


def _check_images(
    path: Path, shard: ShardRecord, index: DatasetIndex, offsets: NDArray[np.void] | None, found: _Findings
) -> None:
    count = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for key, members in _samples(path):
            entry = offsets[count].item() if offsets is not None and count < shard.count else None
            count += 1
            found.keys.append(key)
            try:
                found.digests.append(_check_sample(key, members, index, entry, descriptor))
            except BadSample as error:
                found.problems.append(f"{shard.name}: {key}: {error}")
    except tarfile.TarError as error:
        found.problems.append(f"{shard.name}: damaged: {error}")
    finally:
        os.close(descriptor)
    if count != shard.count:
        found.problems.append(f"{shard.name}: holds {counted(count, 'image')}, {INDEX_NAME} says {shard.count}")


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Every key of a tar, with its members by suffix, as WebDataset reads them."""
    with tarfile.open(path, "r:") as tar:
        for key, members in groupby(tar, key=lambda member: _split(member.name)[0]):
            yield key, {_split(member.name)[1]: member for member in members}


def _split(name: str) -> tuple[str, str]:
    """Key and suffix: a key ends at the first dot of the last part."""
    stem, dot, suffix = PurePosixPath(name).name.partition(".")
    return str(PurePosixPath(name).with_name(stem)) if stem else name, dot + suffix


def _check_sample(
    key: str,
    members: dict[str, tarfile.TarInfo],
    index: DatasetIndex,
    entry: tuple[int, int, int, int] | None,
    descriptor: int,
) -> bytes:
    """The sample's digest. `entry` is its line of the offsets file."""
    image_suffix = next((suffix for suffix in SUFFIXES if suffix in members), "an image")
    wanted = {image_suffix, ".json", *((".cls",) if index.classes else ())}
    labelled = ".cls" in members  # where there are classes, an image may still have no label
    if set(members) | ({".cls"} & wanted) != wanted:
        raise BadSample(f"has members {' '.join(sorted(members))}, must have {' '.join(sorted(wanted))}")
    if not all(member.isreg() for member in members.values()):
        raise BadSample("has a member that is not a plain file")
    content = {
        suffix: os.pread(descriptor, min(member.size, _MAX_MEMBER_BYTES), member.offset_data)
        for suffix, member in members.items()
    }
    label = _label(content[".cls"], len(index.classes)) if labelled else -1
    _check_about(content[".json"])
    image, member = content[image_suffix], members[image_suffix]
    if suffix_of(image) != image_suffix:
        raise BadSample(f"its {image_suffix} member is another kind of file")
    digest = sample_digest(key, label, decode(image, index.shape))
    if entry is not None and entry != (member.offset_data, member.size, zlib.crc32(image), label):
        raise BadSample("place, size, CRC-32 or label is not that of the offsets file")
    return digest


def _label(text: bytes, classes: int) -> int:
    if not text.isdigit() or int(text) >= classes:
        raise BadSample(f"its label is {text[:20]!r}, must be a whole number below {classes}")
    return int(text)


def _check_about(text: bytes) -> None:
    try:
        about = parse_json(text, "its json member")
    except UnreadableError:
        about = None
    if not isinstance(about, dict):
        raise BadSample("its json member is none")
