"""A neighbour search or a sweep as a job, instead of in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import typer

from spider.cli.output import say, say_json, warn

_NOT_IN_THE_JOB = ("slurm", "dry_run", "ray", "help", "as_json")


def submit_this(
    context: typer.Context,
    verb: Literal["neighbors", "sweep"],
    slurm: str,
    out: Path,
    *,
    dry_run: bool,
    as_json: bool,
    more_code: tuple[str, ...] = (),
) -> None:
    """Put the command of `context` into the queue, or start it here; with `dry_run`, print the script instead."""
    from spider.jobs.driver import DriverJob
    from spider.jobs.submit import read_place

    source = context.get_parameter_source("ray")
    ray = context.params["ray"] if source is not None and source.name == "COMMANDLINE" else None
    place = read_place(slurm)
    job = DriverJob(verb, tuple(_words(context)), out, place, ray, more_code)
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
    where = "on this machine" if place.local else f"on {request.nodes} node{'s' * (request.nodes > 1)}"
    say(f"job {submission.job} {where}: spider status {out}, spider logs {out}, spider cancel {out}")


def _words(context: typer.Context) -> Iterator[str]:
    """The command's words, as far as they say something."""
    arguments: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.name in _NOT_IN_THE_JOB or value is None:
            continue
        values = [str(each) for each in (value if isinstance(value, list | tuple) else [value])]
        if parameter.param_type_name == "argument":
            arguments += values
        elif value is True:
            yield parameter.opts[0]
        elif value is not False and value != parameter.default:
            yield from (f"{parameter.opts[0]}={each}" for each in values)
    yield "--"
    yield from arguments
