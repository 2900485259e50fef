"""demo: the whole story on built-in data. toy: what a method does to points of a plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import if_interrupted, is_main_process, require_one_process, say
from spider.toy.request import PLAIN_AND_SLICED

commands = typer.Typer()


@commands.command(epilog="\b\nExample:\n  spider demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where shards, runs, figures and the report go.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(metavar="S", help="The first of the training seeds.")] = 0,
) -> None:
    """Tell the whole story on built-in images.

    Packs three sets, ranks neighbours, trains with and without them, and writes a report; offline, in minutes.
    """
    say(api.demo(out, seed=seed, progress=is_main_process()).text())


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider toy\n"
    "  spider toy gaussians8 d_steps=3 --kimg 40 --variant 'top-k: selection.kind=adaptive overfit.rise_kimg=20'\n"
    "  spider toy swissroll --variant 'learnt' --variant 'exact: discriminator.kind=poly objective.kind=wasserstein'"
)
def toy(
    plane: Annotated[
        str, typer.Argument(metavar="[PLANE]", help="gaussians8, gaussians25, unbalanced or swissroll.")
    ] = "gaussians8",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of all variants (spider config explain).")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")] = Path("runs/toy"),
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="'NAME: KEY=VALUE ...'",
            help="A panel and its keys; again for each, at most 6. Default: plain, and with SAN.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="A-B,C", help="Training seeds of each variant; pictures are of the first.")
    ] = "0",
    kimg: Annotated[float | None, typer.Option(metavar="N", help="Length in thousand points. Default: 200.")] = None,
    frames: Annotated[int, typer.Option(metavar="N", help="Of the movie.")] = 40,
) -> None:
    """Watch GANs learn points of a plane, side by side.

    The trainer, the preset `toy` and any keys: sources, objectives, SAN, selection, penalties. DIR gets report.html
    with a movie of the points and of the discriminator's field, and toy.json. Takes a minute of CPU time.
    """
    require_one_process("toy")
    with if_interrupted("a toy keeps nothing before its end; begin again, with fewer --kimg if that is too long"):
        found = api.toy(
            plane,
            overrides or (),
            out=out,
            variants=variants or PLAIN_AND_SLICED,
            seeds=seeds,
            kimg=kimg,
            frames=frames,
            progress=is_main_process(),
        )
    say(found.text())
