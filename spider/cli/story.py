"""demo: the whole story on built-in data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import is_main_process, say

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
