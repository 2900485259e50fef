"""A command that works on Ray, as a Slurm job whose nodes are the Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from spider.cli.output import say, warn
from spider.errors import SpiderUsageError

_NOT_IN_THE_JOB = ("slurm", "dry_run", "ray", "help")


def submit_this(context: typer.Context, slurm: str, out: Path, *, dry_run: bool) -> None:
    """Put the command of `context`, with `--ray auto`, into the queue; with `dry_run`, print the script instead.

    The job's files and its marker of success or failure go to OUT/slurm.
    """
    from cluster.ray_slurm import FAILED, SUCCESS, script_with_ray, submit_with_ray
    from cluster.slurm import read_request

    source = context.get_parameter_source("ray")
    if source is not None and source.name == "COMMANDLINE":
        raise SpiderUsageError("--ray and --slurm: the job's nodes are the Ray cluster; give one of them")
    request = read_request(slurm)
    if request.gpus_per_node and request.cpus_per_task is None and not request.exclusive:
        warn("cpus_per_task is not given: on most clusters each node then gives one core, for all its GPUs")
    verb = str(context.info_name)
    command = [sys.executable, "-m", "spider", verb, "--ray=auto", *_words(context)]
    folder = out / "slurm"
    name = f"spider-{verb}"
    if dry_run:
        say(script_with_ray(command, request, folder, name=name).rstrip())
        return
    job = submit_with_ray(command, request, folder, name=name)
    say(
        f"job {job} on {request.nodes} nodes: its log is {folder}/{job}_0_log.out; {folder}/{SUCCESS} or {FAILED} says "
        "how it ended; the same command submits it again, to go on"
    )


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
