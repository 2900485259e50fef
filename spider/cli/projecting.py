"""project: the inputs that make given images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spider import api
from spider.cli.output import is_main_process, require_one_process, say_found
from spider.cli.places import RunPlace, SourcePlace

commands = typer.Typer()


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider project runs/letters photo.png --out found\n"
    "  spider project runs/faces photos/ --out found --space w+ --tune 350\n"
    "  spider project runs/classes a.png b.png --class A --class B --out found --steps 300 --video gif"
)
def project(
    run: RunPlace,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders, or whatever spider pack takes. Of each the largest centred square is taken, "
            "at the generator's size.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where images, points and distances go. The same command goes on there."),
    ],
    space: Annotated[
        Literal["w", "w+", "z", "source"] | None,
        typer.Option(
            metavar="w|w+|z|source",
            help="What is searched: w of a mapping network (default where there is one), a w for each layer, "
            "a prior's vector, or a source image; default else: what the generator is fed.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of the search; w+ takes as many again, after those of w.")
    ] = 1000,
    tune: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Then tune a copy of the generator's weights for each image by so many steps (pivotal tuning).",
        ),
    ] = 0,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Samples of the generator among which the nearest is looked for.")
    ] = 256,
    distance: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What is made small, with L2: efficientnet, or lpips_alex, lpips_vgg (see spider weights).",
        ),
    ] = "efficientnet",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights for the distance's network; default: the cache.")
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME|K", help="Class of all images, or repeated for each."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of what is added to w on the way.")] = 0,
    video: Annotated[
        Literal["gif", "mp4"] | None,
        typer.Option(metavar="gif|mp4", help="Also write the way of each image, beside the given one."),
    ] = None,
    source: SourcePlace = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print project.json.")] = False,
) -> None:
    """Find the inputs by which a run makes given images.

    The run is not changed. Ctrl-C leaves the images that are done.
    """
    require_one_process("project")
    found = api.project(
        run,
        images,
        out,
        space=space,
        steps=steps,
        tune=tune,
        samples=samples,
        distance=distance,
        weights=weights,
        classes=class_ or (),
        seed=seed,
        video=video,
        source=source,
        progress=is_main_process(),
    )
    say_found(found, as_json=as_json)
