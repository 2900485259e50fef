"""instances: the bank that condition.kind=instance reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import if_interrupted, require_one_process, say, say_json
from spider.cli.ray import RayAddress, RayWorkers

commands = typer.Typer()


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider instances shards/photos --out photos.safetensors --neighbors 5 --flips\n"
    "  spider instances shards/imagenet --out imagenet.safetensors --embedding swav --weights swav.pth --ray local\n"
    "  spider instances builtin:digits --out digits.safetensors --embedding offline"
)
def instances(
    data: Annotated[str, typer.Argument(metavar="DATA", help="The images to learn: packed shards, or as in pack.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, FILE.safetensors.")],
    embedding: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="efficientnet, swav, resnet50 (both published), dinov2, clip, inception, offline."
        ),
    ] = "efficientnet",
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Resize rule of an embedding that has several; default: the first."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights for the embedding; default: the package or the cache.")
    ] = None,
    neighbors: Annotated[
        int, typer.Option(metavar="K", help="Nearest images of each; published: 50 of ImageNet, 5 of smaller sets.")
    ] = 50,
    flips: Annotated[
        bool, typer.Option("--flips", help="Features of the images flipped left to right as well.")
    ] = False,
    centres: Annotated[
        str,
        typer.Option(
            metavar="N|FILE.npy",
            help="Images that stand for all, by k-means: what a finished generator keeps; or IC-GAN's file of them.",
        ),
    ] = "1000",
    centre_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE.txt", help="Write which images these are, for pack DATA OUT --list FILE.txt."),
    ] = None,
    pixels: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="The same images packed at another size, whose features are taken."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of k-means.")] = 0,
    ray: RayAddress = None,
    workers: RayWorkers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Make a bank of instances, for IC-GAN.

    It has the features of all images, and the nearest images of each. condition.kind=instance trains with it, such as
    spider train icgan/32 ... condition.bank=FILE. Whatever stops it, the same command goes on from there.
    """
    require_one_process("instances")
    with if_interrupted("the features made so far are kept; the same command goes on"):
        made = api.instances(
            data=data,
            out=out,
            embedding=embedding,
            protocol=protocol,
            weights=weights,
            neighbors=neighbors,
            flips=flips,
            centres=centres,
            centre_list=centre_list,
            pixels=pixels,
            seed=seed,
            ray=ray,
            workers=workers,
            progress=True,
        )
    if as_json:
        say_json(made.as_json())
        return
    flipped = ", also flipped" if made.flipped else ""
    say(f"{made.images:,} instances, {made.about.label} features of {made.dim} numbers{flipped}, {made.seconds:.0f} s")
    say(f"nearest {made.neighbors} of each, median radius {made.radius:.3f}")
    if made.label_agreement is not None:
        say(f"{made.label_agreement:.1%} of the neighbours have the class of their instance")
    say(f"{made.centres:,} stand for all\n{made.out}")
