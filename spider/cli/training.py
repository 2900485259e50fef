"""train, presets, config explain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spider import api
from spider.cli.output import is_main_process, say, say_found, say_json
from spider.runs.request import TrainRequest
from spider.tables import aligned

if TYPE_CHECKING:
    from spider.config.explain import Key
    from spider.runs.listing import RunSummary

Data = Annotated[str | None, typer.Option(metavar="SHARDS|FOLDER", help="Images to learn; a folder is packed once.")]
Source = Annotated[
    str | None,
    typer.Option(
        metavar="SHARDS|RUN|PRIOR",
        help="What feeds the generator: a neighbour's images, a run (RUN, RUN@best, RUN@KIMG), or "
        "gaussian, gamma, cauchy, gmm, nonparametric.",
    ),
]
Kimg = Annotated[
    str | None, typer.Option(metavar="N|+N", help="Length in thousand images, or so much more than there is.")
]
Seed = Annotated[int | None, typer.Option(metavar="S", help="Seed of weights, order and every draw.")]
Mirror = Annotated[bool, typer.Option("--mirror", help="Flip half of the images left to right.")]
FromRun = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN@KIMG",
        help="Go on with another run's training, optimizers and clock included. (For its weights alone: --init.)",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="RUN|FILE",
        help="Begin with the weights of a run or an import, in such networks as there, or with those of a .safetensors "
        "file; clock and optimizers are new.",
    ),
]

commands = typer.Typer()
config_commands = typer.Typer(no_args_is_help=True)
commands.add_typer(config_commands, name="config", help="What the keys of a configuration mean.")

_STOPPED = 130


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider train dcgan --data shards/digits --run runs/gaussian --kimg 200\n"
    "  spider train spider-dcgan --data shards/digits --source shards/letters --run runs/letters batch=64\n"
    "  spider train --run runs/letters --kimg +100\n"
    "  spider train --from runs/letters@100 --run runs/slower g_optimizer.lr=5e-5\n"
    "  spider train dcgan --data shards/digits --init runs/letters@best --run runs/again\n"
    "  torchrun --nproc-per-node 2 -m spider train dcgan --data shards/digits --run-dir runs/two"
)
def train(
    run: Annotated[
        Path,
        typer.Option(
            "--run",
            "--run-dir",  # torchrun's parser takes --run for a short form of its own --run-path
            metavar="DIR",
            help="The run's folder. A folder that holds a run resumes it. (Under torchrun: --run-dir.)",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG|PRESET] [KEY=VALUE]...",
            show_default=False,
            help="A YAML file or a preset (spider presets); may be left out where DIR or --from names a run. "
            "Then any keys (spider config explain KEY).",
        ),
    ] = None,
    data: Data = None,
    source: Source = None,
    kimg: Kimg = None,
    seed: Seed = None,
    mirror: Mirror = False,
    from_run: FromRun = None,
    init: Init = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps, print what the run will cost, write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train a GAN, or go on with a run.

    The same command resumes a stopped run. A run whose configuration differs is refused with the difference;
    --from begins a new one at its checkpoint; --init begins one with its weights alone. Ctrl-C
    saves after the iteration and ends with exit code 130; a second one ends without saving. A closed terminal
    saves as well, except under nohup.
    """
    config, overrides = split_words(words or [])
    request = TrainRequest(
        config,
        run,
        data=data,
        source=source,
        kimg=kimg,
        seed=seed,
        mirror=mirror,
        overrides=overrides,
        from_run=from_run,
        init=init,
        progress=is_main_process(),
    ).values()
    if dry_run:
        say_found(api.dry_run(**request), as_json=as_json)
        return
    outcome = api.train(**request)
    if is_main_process():
        from spider.runs.listing import describe_best

        [summary] = api.ls(run)
        if as_json:
            say_json({**summary.as_json(), "run": str(run), "outcome": outcome})
        else:
            best = f", best {describe_best(summary.best)}" if summary.best else ""
            more = "; --kimg +N makes it longer" if outcome == "already finished" else ""
            say(f"{run}: {outcome} at {_how_far(summary, outcome)}{best}{more}")
    if outcome == "stopped":
        raise typer.Exit(_STOPPED)


@commands.command(epilog="\b\nExamples:\n  spider presets\n  spider presets dcgan > mine.yaml")
def presets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False, help="Print its YAML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print name and description as JSON.")] = False,
) -> None:
    """List the configurations that ship with the package.

    Or print one, to start a file of one's own from.
    """
    from spider.config.load import preset_names, preset_text, presets_like
    from spider.errors import SpiderUsageError

    if name is not None:
        if name not in preset_names():
            raise SpiderUsageError(f"preset {name!r} is unknown{presets_like(name)}")
        say(preset_text(name).rstrip())
    elif as_json:
        say_json(api.presets())
    else:
        say(aligned([list(row) for row in api.presets().items()]))


@config_commands.command(
    epilog="\b\nExamples:\n  spider config explain penalties.r1_gamma\n  spider config explain selection\n"
    "  spider config explain mynets:Tiny"
)
def explain(
    key: Annotated[
        str,
        typer.Argument(
            metavar="[KEY]", show_default=False, help="A key, a section or module:Class; default: all keys."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known of each key as JSON.")] = False,
) -> None:
    """Explain a key, a section, or all keys.

    What it means, its type, limits and default, and whether a resumed run may change it.
    """
    found = api.explain(key)
    if as_json:
        say_json([asdict(each) for each in found])
    else:
        say("\n".join(_paragraph(each) for each in found))


def _how_far(summary: RunSummary, outcome: str) -> str:
    """A run ends with a whole batch, at or beyond its length."""
    if outcome == "stopped":
        return f"{summary.kimg:g} of {summary.length_kimg:g} kimg"
    beyond = summary.kimg != summary.length_kimg
    return f"{summary.kimg:g} kimg" + (f" (asked for {summary.length_kimg:g})" if beyond else "")


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration, if the first word is one, and the overrides."""
    if words and ("=" not in words[0] or os.path.isfile(words[0])):
        return words[0], list(words[1:])
    return None, list(words)


def _paragraph(key: Key) -> str:
    kind = f" (kind={key.kind})" if key.kind else ""
    resumed = ", may change on a resume" if key.runtime else ""
    default = f", default {key.default}" if key.default else ""
    return f"{key.name}{kind}\n    {key.description}\n    {key.type}{default}{resumed}"
