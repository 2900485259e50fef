"""The options of commands that share their work among workers on Ray."""

from __future__ import annotations

from typing import Annotated

import typer

RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="local|ADDRESS",
        help="Share the work among workers on a Ray cluster: this machine's cores or GPUs, or that at ADDRESS "
        "(auto: where RAY_ADDRESS says).",
    ),
]
RayWorkers = Annotated[int | None, typer.Option(metavar="N", help="How many; default: one for each GPU, or each core.")]
