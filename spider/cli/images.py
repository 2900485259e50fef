"""pack, verify, neighbors: image sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spider import api
from spider.cli.output import is_main_process, require_one_process, say, say_json
from spider.errors import SpiderUsageError

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
        int | None, typer.Option(metavar="1|3", help="Grey or RGB; default: as the images are.")
    ] = None,
    crop: Annotated[
        Literal["center", "pad", "squash"],
        typer.Option(metavar="center|pad|squash", help="How an image becomes square."),
    ] = "center",
    subset: Annotated[
        int | None, typer.Option(metavar="N", help="Take N files; smaller subsets lie within larger ones.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the subset.")] = 0,
    shard_mb: Annotated[float, typer.Option(metavar="N", help="Largest size of a shard, in 10^6 bytes.")] = 64,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes; default: one per core.")] = None,
    max_bad: Annotated[
        str, typer.Option(metavar="N|N%", help="How many files may be unreadable, a count or a share.")
    ] = "1%",
    encoding: Annotated[
        Literal["png", "raw"], typer.Option(metavar="png|raw", help="raw is larger, and faster to read.")
    ] = "png",
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
        seed=seed,
        shard_mb=shard_mb,
        workers=workers,
        max_bad=max_bad,
        encoding=encoding,
        progress=is_main_process(),
    )
    if as_json:
        say_json({"out": str(out), **index.model_dump(mode="json", exclude={"shards"})})
        return
    kind = ("grey" if index.channels == 1 else "RGB") + (f", {len(index.classes)} classes" if index.classes else "")
    size_mb = sum(shard.bytes for shard in index.shards) / 1e6
    say(
        f"{out}: {index.count:,} images {index.width}x{index.height} {kind}, "
        f"{len(index.shards)} shards, {size_mb:.3g} MB\nlook at {out / 'contact-sheet.png'}"
    )


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
        verdict = "all there and whole" if report.ok else f"{len(report.problems)} problems"
        say(f"{shards}: {report.images:,} whole images in {report.shards} shards: {verdict}")
    if not report.ok:
        raise typer.Exit(1)


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider neighbors shards/photos shards/faces shards/places --out near/ --orders=-1,1\n"
    "  spider neighbors builtin:digits builtin:letters abc=other/letters --out near/ --embedding offline"
)
def neighbors(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The images to learn: packed shards, or as in pack.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="[NAME=]SOURCE...", help="What could be borrowed from, the same way.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where neighbors.json, neighbors.csv, curves.png and heatmap.png go.")
    ],
    embedding: Annotated[
        str, typer.Option(metavar="NAME", help="inception (see spider weights), or offline, which needs no download.")
    ] = "inception",
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="inception's resize rule: tf (default), pytorch_fid, clean.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights for the embedding; default: the cache.")
    ] = None,
    orders: Annotated[
        str,
        typer.Option(
            metavar="K,...", help="Kernels: orders (--orders=-1,1), '2 log', or m/n for Delta^m in n; the first ranks."
        ),
    ] = "-1",
    mode: Annotated[
        str,
        typer.Option(
            metavar="robust|paper|screen", help="paper: the published algorithm; screen: from moments, in seconds."
        ),
    ] = "robust",
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Measure at most N images of each, drawn by the seed.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of everything drawn.")] = 0,
    shortlist: Annotated[
        int, typer.Option(metavar="N", help="At most N sources get the full measure, the nearest by screening.")
    ] = 20,
    keep_negative: Annotated[
        bool, typer.Option("--keep-negative", help="Let sources less diverse than the target be friendly.")
    ] = False,
    keep_gray: Annotated[
        bool, typer.Option("--keep-gray", help="Let grey sources of a colour target be friendly.")
    ] = False,
    picks: Annotated[int, typer.Option(metavar="N", help="How many are friendly, at most.")] = 3,
    every: Annotated[
        bool, typer.Option("--all", help="All that are named, each about each of the others: matrix.json, heatmap.png.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS",
            help="Share the work among workers on a Ray cluster: this machine's cores or GPUs, or that at ADDRESS "
            "(auto: where RAY_ADDRESS says).",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="How many; default: one for each GPU, or each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print neighbors.json, or matrix.json.")] = False,
) -> None:
    """Rank datasets as neighbours of a target.

    By signed distance (CSID), with FID and KID beside it; the friendly ones are what to feed a Spider GAN. Whatever
    stops it, the same command goes on from there.
    """
    require_one_process("neighbors")
    options: dict[str, Any] = {
        "embedding": embedding,
        "protocol": protocol,
        "weights": weights,
        "orders": orders,
        "mode": mode,
        "images": images,
        "shortlist": shortlist,
        "seed": seed,
        "keep_negative": keep_negative,
        "keep_gray": keep_gray,
        "picks": picks,
        "ray": ray,
        "workers": workers,
    }
    if every:
        matrix = api.neighbor_matrix(_named([target, *sources]), out=out, progress=True, **options)
        look, found_json, table = [out / "heatmap.png"], matrix.to_json(), matrix.table()
    else:
        found = api.neighbors(target, _named(sources), out=out, progress=True, **options)
        look, found_json, table = [out / "curves.png", out / "heatmap.png"], found.to_json(), found.table()
    if as_json:
        say_json(found_json)
    else:
        say(f"{table}\nlook at {', '.join(map(str, look))}")


def _named(words: Sequence[str]) -> Sequence[str] | Mapping[str, str]:
    """SOURCE words as they are; NAME=SOURCE words by name, and then the others by what they are called anyway."""
    if not any(_has_name(word) for word in words):
        return words
    from shards.sources import open_source

    found: dict[str, str] = {}
    for word in words:
        name, _, place = word.partition("=") if _has_name(word) else (open_source(word).name, "", word)
        if name in found:
            raise SpiderUsageError(f"two sources are named {name}; give names: NAME=PLACE")
        found[name] = place
    return found


def _has_name(word: str) -> bool:
    return "=" in word and not Path(word).exists() and "://" not in word.partition("=")[0]
