"""classes: what EfficientNet-Lite0 knows of the classes of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import require_one_process, say, say_json
from spider.cli.ray import RayAddress, RayWorkers

commands = typer.Typer()


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider classes shards/flowers --out flowers.safetensors\n"
    "  spider classes shards/imagenet --out imagenet.safetensors --ray local"
)
def classes(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Images with labels: packed shards, or as in pack.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, FILE.safetensors.")],
    ray: RayAddress = None,
    workers: RayWorkers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Make vectors of classes and a classifier, for StyleGAN-XL.

    EfficientNet-Lite0, whose weights are installed, reads all images once. Tables of classes begin with the vectors:
    train ... --init FILE. The classifier guides a generator: auxiliary.0.classifier=FILE. Whatever stops it, the same
    command goes on from there.
    """
    require_one_process("classes")
    made = api.classes(data=data, out=out, ray=ray, workers=workers, progress=True)
    if as_json:
        say_json(made.as_json())
        return
    left = f"; {made.unlabelled:,} have no label and are left out" if made.unlabelled else ""
    say(f"{made.classes:,} classes of {made.images:,} images of {made.name}{left}, {made.seconds:.0f} s")
    if made.accuracy is None:
        say("no accuracy: too few images to hold some out")
    else:
        unseen = f"{made.accuracy:.1%} are named rightly, cross-entropy {made.cross_entropy:.3f}"
        say(f"of {made.held:,} images held out {unseen}; the classifier is made of all")
    say(made.out)
