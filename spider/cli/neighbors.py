"""neighbors: which datasets to borrow from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from neighbors.request import NeighborMatrixRequest, NeighborOptions, NeighborsRequest
from spider import api
from spider.arguments import is_name
from spider.cli.output import require_one_process, say, say_json
from spider.cli.places import EmbeddingWeights
from spider.cli.ray import RayAddress, RayWorkers
from spider.cli.slurm import SlurmJob, submit_this
from spider.errors import SpiderUsageError
from spider.judge.sid.rules import PAPER, RULES

commands = typer.Typer()


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider neighbors shards/photos shards/faces shards/places --out near/ --orders=-1,1\n"
    "  spider neighbors builtin:digits builtin:letters abc=other/letters --out near/ --embedding offline\n"
    "  spider neighbors --all shards/photos shards/faces shards/places --out near/ --ray local\n"
    "  spider neighbors shards/photos shards/* --out near/ --slurm nodes=4,time=4:00:00 --dry-run"
)
def neighbors(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The images to learn: packed shards, or as in pack.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="[NAME=]SOURCE...", help="What could be borrowed from, the same way.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where neighbors.json, neighbors.csv and the figures go.")],
    embedding: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="inception (see spider weights), dinov2, clip, swav, resnet50; efficientnet, offline: no download.",
        ),
    ] = "inception",
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Resize rule of inception: tf (default), pytorch_fid, clean; "
            "of dinov2: dgm_eval (default), edm2, torch_fidelity.",
        ),
    ] = None,
    weights: EmbeddingWeights = None,
    orders: Annotated[
        str,
        typer.Option(
            metavar="K,...", help="Kernels: orders (--orders=-1,1), '2 log', or m/n for Delta^m in n; the first ranks."
        ),
    ] = "-1",
    rule: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"What ranks them: {', '.join(RULES)}. The report shows the ranks under all of them."
        ),
    ] = PAPER,
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
        bool, typer.Option("--keep-negative", help="Let sources that the rule drops as less diverse be friendly.")
    ] = False,
    keep_gray: Annotated[
        bool, typer.Option("--keep-gray", help="Let grey sources of a colour target be friendly.")
    ] = False,
    picks: Annotated[int, typer.Option(metavar="N", help="How many are friendly, at most.")] = 3,
    every: Annotated[
        bool, typer.Option("--all", help="All that are named, each about each of the others: matrix.json, heatmap.png.")
    ] = False,
    ray: RayAddress = None,
    workers: RayWorkers = None,
    slurm: SlurmJob = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --slurm: print the script and submit nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print neighbors.json, or matrix.json.")] = False,
) -> None:
    """Rank datasets as neighbours of a target.

    By signed distance (CSID), with FID and KID beside it; the friendly ones are what to feed a Spider GAN. Other rules
    rank them too, and where the rules disagree, picks.png shows the images. Whatever stops it, the same command goes
    on from there.
    """
    require_one_process("neighbors")
    if dry_run and slurm is None:
        raise SpiderUsageError("--dry-run prints the script of a Slurm job: say which, --slurm nodes=2,time=1:00:00")
    how = NeighborOptions(
        embedding=embedding,
        protocol=protocol,
        weights=weights,
        orders=orders,
        rule=rule,
        mode=mode,
        images=images,
        shortlist=shortlist,
        seed=seed,
        keep_negative=keep_negative,
        keep_gray=keep_gray,
        picks=picks,
        ray=ray,
        workers=workers,
        progress=True,
    ).values()
    asked = (
        NeighborMatrixRequest(_named([target, *sources]), out, **how)
        if every
        else NeighborsRequest(target, _named(sources), out, **how)
    )
    if slurm is not None:
        asked.require_inputs()
        submit_this(asked, slurm, dry_run=dry_run, as_json=as_json)
        return
    found = (api.neighbor_matrix if every else api.neighbors)(**asked.values())
    if as_json:
        say_json(found.to_json())
        return
    figures = [out / "*" / "curves.png", out / "*" / "picks.png"] if every else [out / "curves.png", out / "picks.png"]
    look = [out / ("heatmap*.png" if every else "heatmap.png"), *figures]
    say(f"{found.table()}\nlook at {', '.join(map(str, look))}")


def _named(words: Sequence[str]) -> Sequence[str] | Mapping[str, str]:
    """SOURCE words as they are; NAME=SOURCE words by name, and then the others by what they are called anyway."""
    if not any(_has_name(word) for word in words):
        return words
    from shards.sources import open_source

    found: dict[str, str] = {}
    for word in words:
        name, _, place = word.partition("=") if _has_name(word) else (open_source(word).name, "", word)
        if not name or not place:
            raise SpiderUsageError(f"{word}: NAME=PLACE, and {'NAME' if place else 'PLACE'} is empty")
        if name in found:
            raise SpiderUsageError(f"two sources are named {name}; give names: NAME=PLACE")
        found[name] = place
    return found


def _has_name(word: str) -> bool:
    name, sign, _ = word.partition("=")
    return bool(sign) and not os.path.exists(word) and (not name or is_name(name))
