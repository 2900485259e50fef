"""pack, verify: image sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spider import api
from spider.cli.output import is_main_process, require_one_process, say, say_json
from spider.errors import SpiderUsageError
from untrusted.counts import counted

if TYPE_CHECKING:
    from shards.index import DatasetIndex

commands = typer.Typer()

_CHANNELS: dict[int | None, Literal[1, 3] | None] = {None: None, 1: 1, 3: 3}
_PROBLEMS_SHOWN = 20


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider pack photos/ shards/photos --resolution 64\n"
    "  spider pack builtin:digits shards/digits"
)
def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder (class sub-folders become labels), .tar, .zip, packed shards, "
            "builtin:digits|letters|patches, or torchvision:NAME (MNIST, FashionMNIST, CIFAR10, SVHN, ...).",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; a pack that was stopped goes on.")],
    resolution: Annotated[
        int | None,
        typer.Option(metavar="N", help="Side of every image in pixels; needed where the images differ in size."),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(metavar="1|3", help="Grey or RGB; default: RGB if any image has colour.")
    ] = None,
    crop: Annotated[
        Literal["center", "pad", "squash"],
        typer.Option(metavar="center|pad|squash", help="How an image becomes square."),
    ] = "center",
    subset: Annotated[
        int | None, typer.Option(metavar="N", help="Take N files; smaller subsets lie within larger ones.")
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Pack the images of this list: a path and perhaps a number, their label, in each line; or "
            "coco-stuff:ANNOTATIONS:train|val|eval|seen|unseen.",
        ),
    ] = None,
    join: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE", help="Add the images of another SRC; each is one class, called as its folder or file is."
        ),
    ] = None,
    long_tail: Annotated[
        float | None,
        typer.Option(
            metavar="R", help="Take fewer of one class than of another, at the end R times fewer: a long-tailed subset."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the subset or the long tail.")] = 0,
    shard_mb: Annotated[float, typer.Option(metavar="N", help="Largest size of a shard, in 10^6 bytes.")] = 64,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes; default: one per core.")] = None,
    max_bad: Annotated[
        str, typer.Option(metavar="N|N%", help="How many files may be unreadable, a count or a share.")
    ] = "1%",
    encoding: Annotated[
        Literal["auto", "keep", "png", "raw"],
        typer.Option(
            metavar="auto|keep|png|raw",
            help="How images are stored. raw is the fastest to read; keep stores the JPEG and PNG files themselves "
            "where nothing changes, else PNG; auto is raw up to 128 px RGB, and keep above.",
        ),
    ] = "auto",
    max_megapixels: Annotated[
        float, typer.Option(metavar="N", help="Larger images are bad files; at most 178. They need memory to decode.")
    ] = 80,
    labels: Annotated[
        Literal["class", "vector", "none"],
        typer.Option(
            metavar="class|vector|none",
            help="class: class folders, or the classes of dataset.json; vector: lists of numbers in dataset.json.",
        ),
    ] = "class",
    as_json: Annotated[bool, typer.Option("--json", help="Print index.json without its shards.")] = False,
) -> None:
    """Pack images into WebDataset shards.

    OUT gets the shards, an index with checksums, and a contact sheet to look at.
    """
    if channels not in _CHANNELS:
        raise SpiderUsageError(f"--channels {channels}: 1 (grey) or 3 (RGB)")
    require_one_process("pack")
    index = api.pack(
        source,
        out,
        resolution=resolution,
        channels=_CHANNELS[channels],
        crop=crop,
        subset=subset,
        long_tail=long_tail,
        listed=listed,
        join=join or (),
        seed=seed,
        shard_mb=shard_mb,
        workers=workers,
        max_bad=max_bad,
        encoding=encoding,
        labels=labels,
        max_megapixels=max_megapixels,
        progress=is_main_process(),
    )
    if as_json:
        say_json({"out": str(out), **index.model_dump(mode="json", exclude={"shards"})})
        return
    kind = ("grey" if index.channels == 1 else "RGB") + _classes(out, index)
    size_mb = sum(shard.bytes for shard in index.shards) / 1e6
    say(
        f"{out}: {counted(index.count, 'image')} {index.width}x{index.height} {kind}, "
        f"{counted(len(index.shards), 'shard')}, {size_mb:.3g} MB\nlook at {out / 'contact-sheet.png'}"
    )


def _classes(out: Path, index: DatasetIndex) -> str:
    """`, 10 classes`, or where not all have an image `, 7 of 10 classes`."""
    if not index.classes:
        return ""
    from shards.dataset import ShardDataset

    found = len({*ShardDataset(out).labels().tolist()} - {-1})
    of = f"{found:,} of " if found < len(index.classes) else ""
    return f", {of}{counted(len(index.classes), 'class', 'classes')}"


@commands.command(epilog="\b\nExample:\n  spider verify shards/photos")
def verify(
    shards: Annotated[str, typer.Argument(metavar="SHARDS", help="Packed shards: a folder or a URL.")],
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes; default: one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check every byte of packed shards.

    Names every file and image that is bad, and ends with exit code 1 if any is.
    """
    report = api.verify(shards, workers=workers, progress=is_main_process())
    if as_json:
        say_json({"path": report.path, "ok": report.ok, "images": report.images, "problems": report.problems})
    else:
        for problem in report.problems[:_PROBLEMS_SHOWN]:
            say(f"bad: {problem}")
        if len(report.problems) > _PROBLEMS_SHOWN:
            say(f"bad: {len(report.problems) - _PROBLEMS_SHOWN} more; --json names them all")
        verdict = "nothing is missing or damaged" if report.ok else counted(len(report.problems), "problem")
        images, parts = counted(report.images, "image"), counted(report.shards, "shard")
        say(f"{shards}: {images} without damage in {parts}: {verdict}")
    if not report.ok:
        raise typer.Exit(1)
