"""A neighbour search or a sweep as a job, instead of in this process; and stages, each as one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spider import api
from spider.cli.output import say, say_json, warn
from spider.errors import SpiderUsageError
from spider.tables import aligned, duration
from untrusted.counts import counted

if TYPE_CHECKING:
    from neighbors.request import NeighborMatrixRequest, NeighborsRequest
    from spider.jobs.pipeline import Submitted
    from spider.jobs.stages import Stage
    from sweeps.request import SweepRequest

SlurmJob = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...|FILE|local",
        help="As a job, on Ray on all its nodes (docs/slurm.md); local: here, behind the shell's back.",
    ),
]

Scripts = Annotated[
    bool, typer.Option("--scripts", help="With --dry-run of stages: also what sbatch would be given for each.")
]

_HEADS = {"gpus": "GPUs", "time_min": "time", "after": "waits for"}  # of the table


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


def submit_stages(
    stages: list[Stage], folder: Path, *, dry_run: bool, scripts: bool, as_json: bool, again: bool = False
) -> None:
    """Put stages into the queue, each behind those that it waits for; with `dry_run`, print what would be submitted.

    With `again`, also those whose last job has finished.

    Raises SpiderUsageError: `scripts` without `dry_run`; and as `spider.api.submit_pipeline` does.
    """
    if scripts and not dry_run:
        raise SpiderUsageError("--scripts: of a --dry-run only")
    if dry_run:
        foreseen = api.foresee_pipeline(stages, again=again)
        pending = {each.name for each in foreseen if not each.is_done}
        rows = [_row(stage, each, pending) for stage, each in zip(stages, foreseen, strict=True)]
        if as_json:
            say_json([{**row, "script": stage.script()} for row, stage in zip(rows, stages, strict=True)])
            return
        heads = [_HEADS.get(key, key) for key in rows[0]]
        say(aligned([heads, *([_cell(*each) for each in row.items()] for row in rows)]))
        for stage in stages if scripts else ():
            say(f"\n# stage {stage.name}\n{stage.script().rstrip()}")
        return
    submitted = api.submit_pipeline(stages, again=again)
    if as_json:
        say_json([asdict(each) for each in submitted])
        return
    for each in submitted:
        say(f"{each.name}: {_fate(each)}")
    say(f"spider status {folder} tells how far they are")


def _row(stage: Stage, foreseen: Submitted, pending: Collection[str]) -> dict[str, object]:
    """Of the JSON, and of the table in words. A stage waits for those that are pending."""
    request = stage.place.request
    return {
        "stage": stage.name,
        "verb": stage.request.command[0],
        "nodes": request.nodes,
        "ranks": stage.place.ranks,
        "gpus": request.nodes * request.gpus_per_node,
        "time_min": None if stage.place.local else request.time_min,
        "after": [name for name in stage.after if name in pending],
        "state": _fate(foreseen),
    }


def _cell(key: str, value: object) -> str:
    if key == "time_min" and isinstance(value, int):
        return duration(value * 60)
    return (", ".join(value) if isinstance(value, list) else str(value or "")) or "-"


def _fate(each: Submitted) -> str:
    """What became of a stage, or would."""
    if each.is_done:
        return "has finished before"
    if each.job is None:
        return "to be submitted"
    if each.seen_from is not None:
        return f"job {each.job}, state unknown: ask {each.seen_from}"
    return f"job {each.job}" if each.is_new else f"job {each.job}, as it was"
