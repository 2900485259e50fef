"""Images of any source to a packed dataset, in parallel; a pack that was stopped goes on where it was.

    OUT/000000.tar, 000000.offsets    appear whole, one after the other (shards.series)
        bad.jsonl                     {"name", "reason"} of every file that could not be packed; absent if none
        labels.npy                    labels that are vectors, float32 [images, numbers]; absent where they are none
        index.json                    what makes OUT a dataset
        contact-sheet.png

Every byte in OUT is a function of the input and the options: not of the number of workers, nor of interruptions. (The
contact sheet may show letters that the machine has a font for.)
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from shards.contact_sheet import contact_sheet
from shards.dataset import ShardDataset
from shards.encodings import jpeg_pixels
from shards.errors import ShardsError, ShardsUsageError
from shards.files import write_whole
from shards.images import MAX_MEGAPIXELS, NOT_READ, BadImage, Header, Target, blank, normalise, read_header
from shards.index import (
    INDEX_NAME,
    Crop,
    DatasetIndex,
    Encoding,
    PackOptions,
    SourceRecord,
    VectorRecord,
    pack_options,
    write_index,
)
from shards.labels import Labels
from shards.listing import BadFile, Listing
from shards.order import subset_rank
from shards.parallel import map_ordered, usable_cores
from shards.samples import Sample, build_sample, fingerprint
from shards.series import JOURNAL_NAME, ShardSeries, check_free, forget_journal, open_series
from shards.source import Source
from shards.sources import FolderSource, open_source
from shards.survey import Decision, decide
from shards.vectors import as_rows, write_vectors

SHEET_NAME = "contact-sheet.png"
BAD_NAME = "bad.jsonl"

_FILES_PER_TASK = 64
_BAD_SHOWN = 10
_BLANK_SHOWN = 3


def pack(
    source: str | Path,
    out: str | Path,
    *,
    resolution: int | None = None,
    channels: Literal[1, 3] | None = None,
    crop: Crop = "center",
    subset: int | None = None,
    seed: int = 0,
    shard_mb: float = 64,
    workers: int | None = None,
    max_bad: str | int = "1%",
    encoding: Encoding = "auto",
    progress: bool = True,
    torchvision_root: Path | None = None,
    labels: Labels = "class",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> DatasetIndex:
    """Pack the images of `source` (see shards.sources) into the folder `out`.

    Args:
        resolution: side of the square that every image becomes. None: the images' own size, if they all have the same.
        channels: 1 grey, 3 RGB. None: RGB if any of the images has colour.
        crop: how a square is made of what is none: "center", "pad" or "squash".
        subset: take this many of the files, chosen by `seed`. For one seed, a smaller subset lies within a larger one;
            a file that turns out bad is not replaced.
        shard_mb: largest size of a shard, in 10^6 bytes.
        workers: processes; None: one for every usable core. The output does not depend on it.
        max_bad: how many files may be bad: a count, or a share such as "1%".
        encoding: how images are stored: "auto", "keep", "png" or "raw" (shards.encodings). The pixels are the same.
        progress: show bars and remarks on stderr.
        torchvision_root: where torchvision keeps its datasets.
        max_megapixels: a larger image is a bad file; at most 178.
        labels: "class": of class folders, or of dataset.json; "vector": lists of numbers in dataset.json; "none".

    Returns:
        The index. If `out` already holds just what would be packed, it is left as it is.

    Raises:
        ShardsUsageError: the options do not fit the input; `out` holds something else.
        ShardsError: too many files are bad (all are named in OUT/bad.jsonl), or nothing is left.
    """
    options = pack_options(
        resolution=resolution,
        channels=channels,
        crop=crop,
        subset=subset,
        seed=seed,
        shard_mb=shard_mb,
        encoding=encoding,
        labels=labels,
        max_megapixels=max_megapixels,
    )
    allowed = _Allowance.parse(max_bad)
    opened = open_source(source, torchvision_root=torchvision_root, labels=labels)
    job = _Job(opened, Path(out), options, workers or usable_cores(), progress)
    job.check()
    if (job.out / INDEX_NAME).exists():
        return _keep_what_is_there(job)
    plan = json.dumps({"input": opened.stamp(), "options": options.model_dump()}, sort_keys=True)
    check_free(job.out, plan)
    decision = _survey(job)
    with open_series(job.out, plan, int(shard_mb * 1e6)) as series:
        _make_shards(job, series, decision.target)
        index = _finish(job, series, allowed, decision)
    forget_journal(job.out)
    return index


@dataclass(frozen=True)
class _Job:
    source: Source
    out: Path
    options: PackOptions
    workers: int
    progress: bool

    @cached_property
    def chosen(self) -> list[int]:
        """The numbers of the items to pack, ascending."""
        items, subset = self.source.listing.items, self.options.subset
        if subset is None:
            return list(range(len(items)))
        return sorted(subset_rank(self.options.seed, [item.key for item in items])[:subset].tolist())

    @property
    def refused(self) -> list[BadFile]:
        """Bad files that showed in the listing. A subset is taken from the others."""
        return self.source.listing.bad if self.options.subset is None else []

    def check(self) -> None:
        available, subset = len(self.source.listing.items), self.options.subset
        if not available:
            raise _nothing_left(self.source, self.source.listing.bad)
        if subset is not None and subset > available:
            raise ShardsUsageError(f"subset is {subset}, but {self.source.name} has {available} images")
        inside = isinstance(self.source, FolderSource) and self.out.resolve().is_relative_to(self.source.root.resolve())
        if inside:
            raise ShardsUsageError(f"{self.out} lies in the folder that is packed: choose one outside of it")

    def map(self, function: Any, shared: Any, numbers: list[int], what: str, done: int = 0) -> Iterator[Any]:
        """`function(shared, some numbers)`, a list with a result for each, over all numbers, in order, with a bar."""
        tasks = [numbers[start : start + _FILES_PER_TASK] for start in range(0, len(numbers), _FILES_PER_TASK)]
        with tqdm(
            total=done + len(numbers),
            initial=done,
            desc=what,
            unit="img",
            disable=None if self.progress else True,
            leave=False,
        ) as bar:
            for results in map_ordered(function, shared, tasks, workers=self.workers):
                yield from results
                bar.update(len(results))

    def say(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stderr)


@dataclass(frozen=True)
class _Allowance:
    """How many files may be bad."""

    text: str
    value: float
    is_share: bool

    @classmethod
    def parse(cls, max_bad: str | int) -> _Allowance:
        text = str(max_bad)
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise ShardsUsageError(f"max_bad is {text!r}; known: a count such as 5, or a share such as 1%")
        return cls(text, value, text.endswith("%"))

    def exceeded(self, bad: int, files: int) -> bool:
        return bad > (files * self.value / 100 if self.is_share else self.value)


# ---------------------------------------------------------------------------------------------------------------------
# What the images become


def _survey(job: _Job) -> Decision:
    """What every packed image becomes, from the options and all headers of the source.

    From all, also for a subset: so that subsets of one set have one shape.
    """
    items = job.source.listing.items
    shared = (job.source, job.options.max_megapixels)
    headers = list(job.map(_read_headers, shared, list(range(len(items))), "look"))
    good = [(item.name, header) for item, header in zip(items, headers, strict=True) if isinstance(header, Header)]
    if not good:
        bad = [BadFile(item.name, str(reason)) for item, reason in zip(items, headers, strict=True)]
        raise _nothing_left(job.source, [*bad, *job.refused])
    names, readable = zip(*good, strict=True)
    decision = decide(job.options, names, readable)
    job.say(decision.line)
    return decision


def _read_headers(shared: tuple[Source, float], numbers: Iterable[int]) -> list[Header | str]:
    source, max_megapixels = shared
    headers: list[Header | str] = []
    for number in numbers:
        try:
            headers.append(read_header(source.read(number), max_megapixels))
        except BadImage as error:
            headers.append(str(error))
    return headers


# ---------------------------------------------------------------------------------------------------------------------
# The shards


def _make_shards(job: _Job, series: ShardSeries, target: Target) -> None:
    done = series.next
    if done:
        job.say(f"{job.out}: going on after {done:,} of {len(job.chosen):,} files")
    shared = (job.source, target, job.options.encoding)
    results = job.map(_convert, shared, job.chosen[done:], "pack", done)
    for position, (content, outcome) in enumerate(results, start=done):
        series.add(position, content, outcome)
    series.seal(len(job.chosen))


def _convert(shared: tuple[Source, Target, Encoding], numbers: Iterable[int]) -> list[tuple[str, Sample | BadFile]]:
    """For every item: the sha256 of what was read, and its sample or what is wrong with it."""
    source, target, encoding = shared
    results: list[tuple[str, Sample | BadFile]] = []
    for number in numbers:
        item = source.listing.items[number]
        content = _content(b"")
        try:
            data = source.read(number)
            content = _content(data)
            pixels, before = normalise(data, target)
        except BadImage as error:
            results.append((content, BadFile(item.name, str(error))))
            continue
        about: dict[str, object] = {"name": item.name, "width": before.width, "height": before.height}
        if item.label >= 0:
            about["class"] = source.listing.classes[item.label]
        original = data if isinstance(data, bytes) else None
        sample = build_sample(item.key, item.label, pixels, encoding, about, original)
        colour = blank(pixels)
        results.append((content, replace(sample, blank=f"{item.name} ({colour})") if colour else sample))
    return results


def _content(data: bytes | np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else repr(data.shape).encode() + data.tobytes()).hexdigest()


def _read_contents(source: Source, numbers: Iterable[int]) -> list[str]:
    contents = []
    for number in numbers:
        try:
            contents.append(_content(source.read(number)))
        except BadImage:
            contents.append(_content(b""))
    return contents


# ---------------------------------------------------------------------------------------------------------------------
# The dataset


def _finish(job: _Job, series: ShardSeries, allowed: _Allowance, decision: Decision) -> DatasetIndex:
    """Report what is bad; if it is little enough, write the index and the contact sheet."""
    bad = sorted([*job.refused, *series.bad], key=lambda file: file.name)
    files = len(job.chosen) + len(job.refused)
    _report(job, bad)
    if allowed.exceeded(len(bad), files):
        raise ShardsError(
            f"{len(bad)} of {files} files are bad, more than --max-bad {allowed.text}; "
            f"the first is {bad[0].name}: {bad[0].reason}; all are named in {job.out / BAD_NAME}"
        )
    if not series.shards:
        raise _nothing_left(job.source, bad)
    target = decision.target
    vectors = _vectors(job, series.bad)
    index = DatasetIndex(
        count=len(series.digests),
        channels=target.channels,
        height=target.height,
        width=target.width,
        classes=job.source.listing.classes,
        vectors=vectors,
        fingerprint=fingerprint(series.digests, vectors),
        rules=decision.rules,
        jpeg_pixels=jpeg_pixels() if series.jpegs else None,
        options=job.options,
        source=SourceRecord(
            kind=job.source.kind,
            name=job.source.name,
            available=len(job.source.listing.items),
            files=files,
            bad=len(bad),
            digest=_input_digest(job, series.contents),
        ),
        shards=series.shards,
    )
    write_whole(job.out / INDEX_NAME, write_index(index))
    _write_sheet(job.out)
    _warn_of_blank(job, series.blank, index.count)
    return index


def _report(job: _Job, bad: list[BadFile]) -> None:
    """Every bad file by name and reason: all in bad.jsonl, the first few on the screen."""
    lines = [json.dumps({"name": file.name, "reason": file.reason}, ensure_ascii=False) + "\n" for file in bad]
    if bad:
        write_whole(job.out / BAD_NAME, "".join(lines).encode())
    else:
        (job.out / BAD_NAME).unlink(missing_ok=True)  # of an earlier attempt
    for file in bad[:_BAD_SHOWN]:
        job.say(f"bad: {file.name}: {file.reason}")
    if len(bad) > _BAD_SHOWN:
        job.say(f"bad: {len(bad) - _BAD_SHOWN} more, all in {job.out / BAD_NAME}")
    listing = job.source.listing
    for remark in listing.remarks:
        job.say(remark)
    if listing.passed_over:
        job.say(_passed_over(listing))


def _passed_over(listing: Listing) -> str:
    """How many files are no images by their names, by type, and what to do about those that hold images after all."""
    types = ", ".join(f"{count:,} {suffix}" for suffix, count in listing.passed_over.items())
    suffixes_of: dict[str, list[str]] = {}
    for suffix in listing.passed_over.keys() & NOT_READ.keys():
        suffixes_of.setdefault(NOT_READ[suffix], []).append(suffix)
    advice = "".join(f"; {', '.join(sorted(suffixes))}: {what}" for what, suffixes in sorted(suffixes_of.items()))
    total = sum(listing.passed_over.values())
    return f"{total:,} other files are no images by their names, and were passed over: {types}{advice}"


def _vectors(job: _Job, bad: list[BadFile]) -> VectorRecord | None:
    """labels.npy and its record; None unless labels are vectors."""
    listing, refused = job.source.listing, {file.name for file in bad}
    if not listing.vector_dim:
        return None
    items = [listing.items[number] for number in job.chosen]
    return write_vectors(job.out, [item.vector for item in items if item.name not in refused], listing.vector_dim)


def _warn_of_blank(job: _Job, pictures: list[str], count: int) -> None:
    if pictures:
        named = ", ".join(pictures[:_BLANK_SHOWN]) + (", ..." if len(pictures) > _BLANK_SHOWN else "")
        job.say(
            f"warning: {len(pictures):,} of {count:,} pictures are almost all black or white: {named}; "
            f"look at {job.out / SHEET_NAME}"
        )


def _input_digest(job: _Job, contents: list[str]) -> str:
    keys = [job.source.listing.items[number].key for number in job.chosen]
    lines = [f"{key}\0{content}\n" for key, content in zip(keys, contents, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _write_sheet(out: Path) -> None:
    buffer = BytesIO()
    contact_sheet(ShardDataset(out)).save(buffer, "PNG")
    write_whole(out / SHEET_NAME, buffer.getvalue())


def _keep_what_is_there(job: _Job) -> DatasetIndex:
    """The dataset in `out`, if it is what this pack would make."""
    dataset = ShardDataset(job.out)
    index = dataset.index
    there, asked = index.options.model_dump(), job.options.model_dump()
    if job.options.encoding == "auto":  # whatever it is stored as will do
        asked["encoding"] = there["encoding"]
    differences = [f"{key} is {there[key]}, not {asked[key]}" for key in there if there[key] != asked[key]]
    if not differences:
        contents = list(job.map(_read_contents, job.source, job.chosen, "compare"))
        if _input_digest(job, contents) != index.source.digest:
            differences = [f"it was packed from other images ({index.source.kind} {index.source.name})"]
        else:
            differences = _label_differences(job, dataset)
    if differences:
        raise ShardsUsageError(f"{job.out} holds another dataset: {'; '.join(differences)}; choose another folder")
    if not (job.out / SHEET_NAME).exists():
        _write_sheet(job.out)
    if (job.out / JOURNAL_NAME).exists():
        forget_journal(job.out)
    job.say(f"{job.out}: already packed from the same images with the same options")
    return index


def _label_differences(job: _Job, dataset: ShardDataset) -> list[str]:
    """In what the labels of a dataset that was packed from the same files are not those of the source: a line or none.

    They are compared themselves, as the input's digest does not hold them.
    """
    listing, index = job.source.listing, dataset.index
    for number, (there, now) in enumerate(zip_longest(index.classes, listing.classes, fillvalue="none")):
        if there != now:
            return [f"its class {number} is {there}, not {now}"]
    dim = 0 if index.vectors is None else index.vectors.dim
    if dim != listing.vector_dim:
        return [f"its labels are vectors of {dim} numbers, not {listing.vector_dim}"]
    item_of = {item.key: item for item in (listing.items[number] for number in job.chosen)}
    keys = [dataset.key(number) for number in range(len(dataset))]  # bad files are not among them
    for key in keys:
        if key not in item_of:
            return [f"it holds an image {key}, which is not among them"]
    items = [item_of[key] for key in keys]
    differ = dataset.labels() != np.array([item.label for item in items])
    vectors = dataset.vectors()
    if vectors is not None:
        rows = as_rows([item.vector for item in items], dim)
        differ |= ((vectors != rows) & ~(np.isnan(vectors) & np.isnan(rows))).any(axis=1)
    if not differ.any():
        return []
    count, first = int(differ.sum()), keys[int(differ.argmax())]
    return [f"the labels of {count:,} of its {len(keys):,} images are other ones now; the first is {first}"]


def _nothing_left(source: Source, bad: list[BadFile]) -> ShardsError:
    first = f"; the first of {len(bad)} bad files is {bad[0].name}: {bad[0].reason}" if bad else ""
    others = f"; {_passed_over(source.listing)}" if source.listing.passed_over else ""
    return ShardsError(f"{source.kind} {source.name}: no image that can be packed{first}{others}")
