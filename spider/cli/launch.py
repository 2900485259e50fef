"""launch, status, logs, cancel: trainings as jobs."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from dataclasses import asdict
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spider import api
from spider.cli.output import require_one_process, say, say_json, warn
from spider.cli.slurm import Scripts, submit_stages
from spider.cli.training import Data, FromRun, Init, Kimg, Mirror, Seed, Source, split_words
from spider.errors import SpiderUsageError
from spider.tables import duration, size, speed
from untrusted.counts import counted
from untrusted.files import open_regular
from untrusted.terminal import CLEAR_SCREEN, is_heard, tell

if TYPE_CHECKING:
    from spider.jobs.launch import Forecast, Launch
    from spider.jobs.status import Status
    from spider.jobs.submit import Place

commands = typer.Typer()

_WATCH_S = 5.0
_TAIL_BYTES = 4 << 20  # of a log, in which its last lines are looked for
_TICKS = 10  # how often a log is read for each time that squeue is asked


@commands.command(
    epilog="\b\nExamples:\n"
    "  spider launch spider-dcgan --data data/flowers --source data/birds --run runs/birds batch=128 "
    "--slurm nodes=2,gpus_per_node=8,time=8:00:00 --dry-run\n"
    "  spider launch dcgan --data data/flowers --run runs/gaussian --slurm cluster.yaml kimg=2000\n"
    "  spider launch dcgan --data data/flowers --run runs/here --slurm local,tasks_per_node=2\n"
    "  spider launch cascade.yaml --run runs/cascade --slurm cluster.yaml"
)
def launch(
    run: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder, or the pipeline's; on shared storage.")],
    slurm: Annotated[
        str,
        typer.Option(
            metavar="KEY=VALUE,...|FILE|local",
            help="What the job needs (docs/slurm.md); local: run it here, behind the shell's back.",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG|PRESET|PIPELINE] [KEY=VALUE]...",
            show_default=False,
            help="As of spider train; or a file of stages (docs/operations.md).",
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
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, print the script, or a line for each stage; needs no torch and no Slurm.",
        ),
    ] = False,
    scripts: Scripts = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was submitted as JSON.")] = False,
) -> None:
    """Train on a cluster, one rank for each GPU.

    The job saves before its time is over or when it is preempted, and goes on by itself; it starts again when a rank
    or a node is lost. It runs the code and configuration of now. The same command goes on with a run that has ended.
    """
    require_one_process("launch")
    config, overrides = split_words(words or [])
    if api.is_pipeline(config):
        options = {
            "--data": data,
            "--source": source,
            "--kimg": kimg,
            "--seed": seed,
            "--from": from_run,
            "--init": init,
        }
        given = [*(name for name, value in options.items() if value is not None), *overrides, *["--mirror"] * mirror]
        if given:
            raise SpiderUsageError(f"{given[0]}: the stages of a pipeline say it themselves, in {config}")
        stages = api.read_pipeline(str(config), run, slurm)
        submit_stages(stages, run, dry_run=dry_run, scripts=scripts, as_json=as_json)
        return
    if scripts:
        raise SpiderUsageError("--scripts: of a file of stages only; the --dry-run of a training prints its script")
    ready = api.prepare_launch(
        config, run, slurm, data=data, source=source, kimg=kimg, seed=seed, mirror=mirror, overrides=overrides,
        from_run=from_run,
        init=init,
    )  # fmt: skip
    _warn_of_cores(ready.place)
    if dry_run:
        say(ready.script().rstrip())
        say("\n".join(f"# {line}" for line in _forecast(ready.forecast(None), ready).splitlines()))
        return
    if ready.has_finished:
        say(f"{run}: already finished at {ready.config.kimg:g} kimg; --kimg +N makes it longer")
        return
    forecast = ready.forecast(api.checkpoint_bytes(ready.config))
    if not as_json:
        say(_forecast(forecast, ready))
    submission = ready.submit()
    if as_json:
        about = {"run": str(ready.directory.path), "job": submission.job, "log": str(submission.log(ready.folder, 0))}
        say_json({**about, "forecast": asdict(forecast)})
        return
    ranks = counted(ready.place.ranks, "rank")
    say(f"job {submission.job}, {ranks}: spider status {run}, spider logs {run}, spider cancel {run}")


@commands.command(epilog="\b\nExamples:\n  spider status runs/birds\n  spider status runs --watch")
def status(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|DIR", help="A run, pipeline, search or sweep, or a folder of them.")
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds, until all have ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how far runs are, and what happened to jobs.

    Of trainings, neighbour searches, sweeps and pipelines.

    Of one of them, all of its history; of a pipeline or a folder, a line for each stage and run.
    """
    while True:
        found = api.status(path)
        if as_json:
            say_json(found.as_json())
        else:
            if watch and sys.stdout.isatty():
                sys.stdout.write(CLEAR_SCREEN)
            say(_described(found))
        if not watch or found.is_over or not is_heard():
            return
        time.sleep(_WATCH_S)


@commands.command(epilog="\b\nExamples:\n  spider logs runs/birds\n  spider logs runs/birds --rank 3 --follow")
def logs(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run, search or sweep; of a pipeline, DIR/stages/NAME."),
    ],
    rank: Annotated[int, typer.Option(metavar="N", min=0, help="Of which rank.")] = 0,
    lines: Annotated[int, typer.Option(metavar="N", min=1, help="How many lines of the end.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And what comes, until the job has ended.")] = False,
) -> None:
    """Print the end of what a rank of a job has printed.

    In all starts of the job.
    """
    log = _log(run, rank, wait=follow)
    say(f"{log}:")
    with open_regular(log, sys.maxsize) as (end, size), TextIOWrapper(end, "utf-8", "replace") as file:
        file.seek(max(0, size - _TAIL_BYTES))
        printed = deque(file, maxlen=lines)
        sys.stdout.write("".join(printed))
        if not printed:
            tell("nothing printed yet")
        for tick in count() if follow else ():
            sys.stdout.flush()
            is_over = tick % _TICKS == 0 and _is_over(log.parent)
            sys.stdout.write(file.read())  # after that was asked: it is all that the job had to say
            if is_over or not is_heard():
                break
            time.sleep(_WATCH_S / _TICKS)


@commands.command(epilog="\b\nExample:\n  spider cancel runs/birds")
def cancel(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, pipeline, search or sweep whose jobs are to end.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it has saved and ended.")] = True,
) -> None:
    """Save, and end a job, or all jobs of a pipeline.

    The command that started it resumes it.
    """
    for job in api.cancel(run):
        say(f"job {job} was asked to save and end")
    while wait and not api.status(run).is_over:
        time.sleep(1.0)
    if wait:
        say(_described(api.status(run)))


def _warn_of_cores(place: Place) -> None:
    request = place.request
    if place.local and not request.gpus_per_node and shutil.which("nvidia-smi"):
        warn("gpus_per_node is not given: the ranks will see none of this machine's GPUs")
    if not place.local and request.gpus_per_node and request.cpus_per_task is None and not request.exclusive:
        warn("cpus_per_task is not given: on most clusters each rank then has one core to read images with")


def _described(found: Status) -> str:
    from spider.jobs.describe import describe

    return describe(found)


def _log(run: Path, rank: int, *, wait: bool) -> Path:
    from spider.jobs.of_folder import NotBegunError

    told = False
    while True:
        try:
            return api.logs(run, rank)
        except NotBegunError as error:
            if not wait or _is_over(error.folder):
                raise
            if not told:
                tell(f"{error}; waiting")
            told = True
            time.sleep(_WATCH_S)


def _is_over(folder: Path) -> bool:
    """Whether the job whose files these are neither waits nor runs."""
    from spider.jobs.job_status import job_status

    job = job_status(folder)
    return job is None or job.is_over


def _forecast(forecast: Forecast, ready: Launch) -> str:
    left = max(0.0, forecast.kimg - forecast.done_kimg)
    length = f"{left:g} of {forecast.kimg:g} kimg are left" if forecast.done_kimg else f"{forecast.kimg:g} kimg"
    if forecast.hours is not None and forecast.img_per_s is not None:
        length += f": {duration(forecast.hours * 3600)} at the {speed(forecast.img_per_s)} of its last rows"
    request = ready.place.request
    if forecast.slowest_img_per_s is not None:
        starts, each = 1 + request.max_timeouts, duration(request.time_min * 60)
        times = f"up to {starts} starts of {each} each" if starts > 1 else each
        length += f"; its time ({times}) is enough at {speed(forecast.slowest_img_per_s)} or more"
    if forecast.hours is None:
        where = "here" if ready.place.local else "on one of the nodes"
        length += f"; spider train --dry-run {where} tells how long it takes"
    free = f"{size(forecast.free_bytes)} are free"
    if forecast.disk_bytes is None:
        return f"{length}\n{forecast.checkpoints} checkpoints at most; {free}"
    if forecast.disk_bytes > forecast.free_bytes:
        warn(f"{forecast.checkpoints} checkpoints need {size(forecast.disk_bytes)}, and {free}")
    each = size(forecast.disk_bytes / forecast.checkpoints)
    return f"{length}\n{size(forecast.disk_bytes)} for {forecast.checkpoints} checkpoints of {each}; {free}"
