"""import, export: networks of other programs, and for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import require_one_process, say, say_json
from spider.cli.places import RunPlace
from untrusted.counts import counted

commands = typer.Typer()


@commands.command("import", epilog="\b\nExample:\n  spider import network-snapshot-025000.pkl runs/theirs")
def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.pkl",
            help="A pickle of StyleGAN2-ADA (PyTorch), StyleGAN3's code, StyleGAN-XL or R3GAN. No code in it runs.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make: a run without a training.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was imported as JSON.")] = False,
) -> None:
    """Make a run's folder from a pickle of networks.

    generate, interpolate and evaluate take OUT as they take a run; so does train --init OUT, which begins a training
    with its networks, and train --source OUT, which feeds one with its images.
    """
    require_one_process("import")
    done = api.import_pickle(file, out)
    if as_json:
        say_json(done.as_json())
        return
    channels, height, width = done.image_shape
    classes = f", {counted(done.classes, 'class', 'classes')}" if done.classes else ""
    networks = ", ".join(f"{name} ({counted(size, 'weight')})" for name, size in done.networks.items())
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    say("\n".join([f"{out}: {width}x{height} {kind}{classes}: {networks}", *done.remarks]))


@commands.command(epilog="\b\nExample:\n  spider export runs/letters@best exported/letters --onnx")
def export(
    run: RunPlace,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write generator.onnx as well; needs the extra onnx of this package.")
    ] = False,
) -> None:
    """Write a run's averaged generator for other programs.

    OUT gets generator.safetensors and generator.json, which says what they are. In ONNX, noise that is drawn for each
    image becomes constant noise, that of image 0.
    """
    require_one_process("export")
    say("\n".join(str(path) for path in api.export(run, out, onnx=onnx)))
