"""sweep: many trainings that differ in a few keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider import api
from spider.cli.output import is_main_process, require_one_process, say, say_found, say_json
from spider.cli.slurm import SlurmJob, submit_this
from sweeps.request import SweepRequest

commands = typer.Typer()

_INTERRUPTED = 130


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider sweep sweep.yaml --out sweeps/neighbours --dry-run\n"
    "  spider sweep sweep.yaml --out sweeps/neighbours\n"
    "  spider sweep sweep.yaml --out sweeps/neighbours --ray auto"
)
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="What differs, and how it is searched.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The sweep's folder. A folder that holds the sweep resumes it.")
    ],
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="local|auto|ADDRESS",
            help="Default: local, this machine; auto: the Ray cluster of RAY_ADDRESS or of this machine; HOST:PORT.",
        ),
    ] = None,
    slurm: SlurmJob = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check every key, print the trials and what they would cost; with --slurm, the job's script.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print sweep.json, or with --dry-run the figures.")] = False,
) -> None:
    """Train many runs that differ in a few keys, on Ray.

    Every trial is an ordinary run in DIR/runs. The same command resumes a killed or stopped sweep; Ctrl-C
    saves the trainings and ends with exit code 130. DIR gets sweep.json, sweep.csv, parallel.png and, where the sources
    come from a neighbour search, outcome.png. `spider compare DIR/runs` shows the trials side by side.

    \b
    SWEEP.yaml:
      config: spider-dcgan               # a preset or a YAML file
      data: shards/digits
      kimg: 200                          # of every trial
      overrides: {evaluate.every_kimg: 20, evaluate.embedding: offline}
      seeds: 2                           # of every configuration
      metric: fid
      space:                             # grid, choice, uniform, loguniform, randint; neighbors
        source: {neighbors: {sources: [shards/letters, shards/faces], orders: [-1, 1], picks: 1}}
        penalties.r1_gamma: {grid: [0.1, 1, 10]}
      search: grid                       # or {kind: random, trials: 20}, {kind: optuna, trials: 40}
      scheduler: fifo                    # or {kind: asha, grace_kimg: 20, reduction_factor: 3}
      resources: {cpus: 1, gpus: 0.5}    # of every trial; processes: 4 for one training on 4 GPUs
      retries: 2                         # of a trial that dies, from its last checkpoint
    """
    require_one_process("sweep")
    if slurm is not None:
        from sweeps.plan import SweepPlan

        SweepPlan(file, out)  # what cannot be is refused now, and not when the job's turn has come
        submit_this(SweepRequest(file, out, ray=ray), slurm, dry_run=dry_run, as_json=as_json)
        return
    if dry_run:
        say_found(api.sweep_cost(file, out), as_json=as_json)
        return
    report = api.sweep(file, out, ray=ray, progress=is_main_process())
    if as_json:
        say_json(report.to_json())
    else:
        say(report.table())
        if figures := [out / name for name in ("parallel.png", "outcome.png") if (out / name).exists()]:
            say(f"look at {', '.join(map(str, figures))}")
    if not report.is_complete:
        if not as_json:
            say(f"stopped; the same command goes on in {out}")
        raise typer.Exit(_INTERRUPTED)
    if (failure := report.failure()) is not None:
        raise failure
