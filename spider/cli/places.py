"""Arguments and options that name what several commands read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUN = "RUN, RUN@best, RUN@last or RUN@KIMG."

RunPlace = Annotated[str, typer.Argument(metavar="RUN", help=RUN)]
SourcePlace = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="SHARDS|FOLDER|RUN",
        help="Where the images or the run that feed it lie now, if they have moved; the run notes it.",
    ),
]
BankFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A bank of spider instances, of any images, in place of the run's own."),
]
EmbeddingWeights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights for the embedding; default: the cache.")
]
