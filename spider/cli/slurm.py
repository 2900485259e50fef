"""A neighbour search or a sweep as a job, instead of in this process; and stages, each as one."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spider import api
from spider.cli.output import say, say_json, warn
from untrusted.counts import counted

if TYPE_CHECKING:
    from neighbors.request import NeighborMatrixRequest, NeighborsRequest
    from spider.jobs.stages import Stage
    from sweeps.request import SweepRequest

SlurmJob = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...|FILE|local",
        help="As a job, on Ray on all its nodes (docs/slurm.md); local: here, behind the shell's back.",
    ),
]


def submit_this(
    asked: NeighborsRequest | NeighborMatrixRequest | SweepRequest,
    slurm: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put what is asked for into the queue, or start it here; with `dry_run`, print the script instead."""
    from spider.jobs.driver import DriverJob
    from spider.jobs.submit import read_place

    place, out = read_place(slurm), Path(asked.out)
    verb, *words = replace(asked, ray=None).words()
    job = DriverJob(verb, tuple(words), out, place, asked.ray, asked.packages())
    request = place.request
    if request.gpus_per_node and request.cpus_per_task is None and not request.exclusive and not place.local:
        warn("cpus_per_task is not given: on most clusters each node then gives one core, for all its GPUs")
    if dry_run:
        say(job.script().rstrip())
        return
    submission = job.submit()
    if as_json:
        say_json({"out": str(out), "job": submission.job, "log": str(submission.log(job.folder, 0))})
        return
    where = "on this machine" if place.local else f"on {counted(request.nodes, 'node')}"
    say(f"job {submission.job} {where}: spider status {out}, spider logs {out}, spider cancel {out}")


def submit_stages(stages: list[Stage], folder: Path, *, dry_run: bool, as_json: bool, again: bool = False) -> None:
    """Put stages into the queue, each behind those that it waits for; with `dry_run`, print the scripts instead.

    With `again`, also those whose last job has finished.
    """
    if dry_run:
        api.foresee_pipeline(stages, again=again)
        scripts = [stage.script().rstrip() for stage in stages]
        for stage, script in zip(stages, scripts, strict=True):
            behind = f", behind {', '.join(stage.after)}" if stage.after else ""
            say(f"# stage {stage.name}{behind}\n{script}\n")
        return
    submitted = api.submit_pipeline(stages, again=again)
    if as_json:
        say_json([asdict(each) for each in submitted])
        return
    for each in submitted:
        what = "has finished before" if each.job is None else f"job {each.job}{'' if each.is_new else ', as it was'}"
        say(f"{each.name}: {what}")
    say(f"spider status {folder} tells how far they are")
