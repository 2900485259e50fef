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

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from shards.choices import Crop, Encoding
from shards.convert import convert, read_headers
from shards.encodings import jpeg_pixels
from shards.errors import ShardsError
from shards.files import write_whole
from shards.images import MAX_MEGAPIXELS, Header, Target
from shards.index import (
    INDEX_NAME,
    DatasetIndex,
    SourceRecord,
    VectorRecord,
    pack_options,
    write_index,
)
from shards.joined import JoinedSource, require_join
from shards.labels import Labels
from shards.listing import BadFile
from shards.lists import ListedSource, read_list
from shards.pack_job import Allowance, PackJob, nothing_left, passed_over
from shards.packed import SHEET_NAME, keep_what_is_there, write_sheet
from shards.parallel import usable_cores
from shards.samples import fingerprint
from shards.series import ShardSeries, check_free, forget_journal, open_series
from shards.source import Source
from shards.sources import open_source
from shards.survey import Decision, decide
from shards.vectors import write_vectors
from untrusted.counts import counted

BAD_NAME = "bad.jsonl"

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
    long_tail: float | None = None,
    seed: int = 0,
    shard_mb: float = 64,
    workers: int | None = None,
    max_bad: str | int = "1%",
    encoding: Encoding = "auto",
    progress: bool = True,
    torchvision_root: Path | None = None,
    labels: Labels = "class",
    max_megapixels: float = MAX_MEGAPIXELS,
    listed: str | Path | None = None,
    join: Sequence[str | Path] = (),
) -> DatasetIndex:
    """Pack the images of `source` (see shards.sources) into the folder `out`.

    Args:
        resolution: side of the square that every image becomes. None: the images' own size, if they all have the same.
        channels: 1 grey, 3 RGB. None: RGB if any of the images has colour.
        crop: how a square is made of what is none: "center", "pad" or "squash".
        subset: take this many of the files, chosen by `seed`. For one seed, a smaller subset lies within a larger one;
            a file that turns out bad is not replaced.
        long_tail: take fewer images of one class than of another, falling exponentially from the largest class to the
            smallest, of which this many times fewer are left; chosen as a subset is (`shards.long_tail`).
        shard_mb: largest size of a shard, in 10^6 bytes.
        workers: processes; None: one for every usable core. The output does not depend on it.
        max_bad: how many files may be bad: a count, or a share such as "1%".
        encoding: how images are stored: "auto", "keep", "png" or "raw" (shards.encodings). The pixels are the same.
        progress: show bars and remarks on stderr.
        torchvision_root: where torchvision keeps its datasets.
        max_megapixels: a larger image is a bad file; at most 178.
        listed: a list of the images to pack, perhaps with their labels: a file, or `coco-stuff:ANNOTATIONS:SPLIT`
            (`shards.lists`). None: all of them.
        labels: "class": of class folders, or of dataset.json; "vector": lists of numbers in dataset.json; "none".
        join: more sources, whose images follow. Each source is a class then, called as the source is
            (`shards.joined`), in the place of the labels within it.

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
        long_tail=long_tail,
        seed=seed,
        shard_mb=shard_mb,
        encoding=encoding,
        labels=labels,
        max_megapixels=max_megapixels,
    )
    allowed = Allowance.parse(max_bad)
    require_join(join, labels, listed)
    own = "none" if join else labels
    sources = [open_source(each, torchvision_root=torchvision_root, labels=own) for each in (source, *join)]
    opened: Source = JoinedSource(sources) if join else sources[0]
    if listed is not None:
        opened = ListedSource(opened, read_list(listed))
    job = PackJob(opened, Path(out), options, workers or usable_cores(), progress)
    job.check()
    if (job.out / INDEX_NAME).exists():
        return keep_what_is_there(job)
    plan = json.dumps({"input": opened.stamp(), "options": options.model_dump()}, sort_keys=True)
    check_free(job.out, plan)
    decision = _survey(job)
    with open_series(job.out, plan, int(shard_mb * 1e6)) as series:
        _make_shards(job, series, decision.target)
        index = _finish(job, series, allowed, decision)
    forget_journal(job.out)
    return index


def _survey(job: PackJob) -> Decision:
    """What every packed image becomes, from the options and all headers of the source.

    From all, also for a subset: so that subsets of one set have one shape. What is said counts what is packed.
    """
    items = job.source.listing.items
    shared = (job.source, job.options.max_megapixels)
    headers = list(job.map(read_headers, shared, list(range(len(items))), "look"))
    good = [(item.name, header) for item, header in zip(items, headers, strict=True) if isinstance(header, Header)]
    if not good:
        bad = [BadFile(item.name, str(reason)) for item, reason in zip(items, headers, strict=True)]
        raise nothing_left(job.source, [*bad, *job.refused])
    names, readable = zip(*good, strict=True)
    packed = [header for header in map(headers.__getitem__, job.chosen) if isinstance(header, Header)]
    decision = decide(job.options, names, readable, packed)
    job.say(decision.line)
    return decision


def _make_shards(job: PackJob, series: ShardSeries, target: Target) -> None:
    done = series.next
    if done:
        job.say(f"{job.out}: going on after {done:,} of {len(job.chosen):,} files")
    shared = (job.source, target, job.options.encoding)
    results = job.map(convert, shared, job.chosen[done:], "pack", done)
    for position, (content, outcome) in enumerate(results, start=done):
        series.add(position, content, outcome)
    series.seal(len(job.chosen))


def _finish(job: PackJob, series: ShardSeries, allowed: Allowance, decision: Decision) -> DatasetIndex:
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
        raise nothing_left(job.source, bad)
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
            digest=job.input_digest(series.contents),
        ),
        shards=series.shards,
    )
    write_whole(job.out / INDEX_NAME, write_index(index))
    write_sheet(job.out)
    _warn_of_blank(job, series.blank, index.count)
    return index


def _report(job: PackJob, bad: list[BadFile]) -> None:
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
    if job.options.long_tail is not None:
        job.say(_sizes(job, bad))
    for remark in listing.remarks:
        job.say(remark)
    if listing.passed_over:
        job.say(passed_over(listing))


def _sizes(job: PackJob, bad: list[BadFile]) -> str:
    """`long tail: 10 classes, from 500 images of cat to 5 of owl`."""
    listing, refused = job.source.listing, {file.name for file in bad}
    items = [listing.items[number] for number in job.chosen]
    sizes = Counter(item.label for item in items if item.name not in refused).most_common()
    ends = [f"{counted(size, 'image')} of {listing.classes[label]}" for label, size in (sizes[0], sizes[-1])]
    return f"long tail: {counted(len(sizes), 'class', 'classes')}, from {' to '.join(ends)}"


def _vectors(job: PackJob, bad: list[BadFile]) -> VectorRecord | None:
    """labels.npy and its record; None unless labels are vectors."""
    listing, refused = job.source.listing, {file.name for file in bad}
    if not listing.vector_dim:
        return None
    items = [listing.items[number] for number in job.chosen]
    return write_vectors(job.out, [item.vector for item in items if item.name not in refused], listing.vector_dim)


def _warn_of_blank(job: PackJob, pictures: list[str], count: int) -> None:
    if pictures:
        named = ", ".join(pictures[:_BLANK_SHOWN]) + (", ..." if len(pictures) > _BLANK_SHOWN else "")
        job.say(
            f"warning: {len(pictures):,} of {count:,} pictures are almost all black or white: {named}; "
            f"look at {job.out / SHEET_NAME}"
        )
