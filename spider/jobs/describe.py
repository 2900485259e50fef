"""The state of runs and jobs for a terminal: a table of many, or one with its history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from spider.jobs.job_status import JobStatus
from spider.jobs.status import RunStatus, Status
from spider.runs.directory import images_of
from spider.runs.listing import describe_best
from spider.runs.records import is_checkpoint_name
from spider.runs.row_text import left_text
from spider.tables import aligned, duration, speed
from untrusted.counts import counted
from untrusted.terminal import one_line

_TIGHT = 0.5  # of the time before a job's end: more is too much for a save, since Slurm may send its signal late


def describe(found: Status) -> str:
    """For a person: a run, a search or a sweep with its history; a line for each stage, or run, of many."""
    own = (Path(found.path).name, ".")
    if len(found.runs) == 1 and not found.jobs and found.runs[0].name in own:
        return _describe_run(found.runs[0])
    parts = [_describe_driver(job) for name, job in found.drivers.items() if name in own]
    for what, jobs in (("stage", found.stages), ("job", found.drivers)):
        rows = [[name, job.state, str(sum(job.restarts.values())), job.job, ",".join(job.nodes) or "-", job.why or ""]
                for name, job in jobs.items() if what == "stage" or name not in own]  # fmt: skip
        parts += [aligned([[what, "state", "restarts", "job", "nodes", "why"], *rows])] if rows else []
    if found.runs:
        header = ["run", "state", "kimg", "img/s", "left", "checkpoint", "restarts", "job", "nodes"]
        parts.append(aligned([header, *map(_row, found.runs)]))
    parts += ["\n".join(problems)] if (problems := list(_problems(found))) else []
    failed = [run for run in found.runs if run.state == "failed" and run.summary.failure is not None]
    told = [f"! {one_line(f'{run.name}: failed {run.summary.failure}')}" for run in failed]
    parts += ["\n".join(told)] if told else []
    parts += [one_line(f"{found.path}: {found.outcome}")] if found.outcome is not None else []
    return "\n\n".join(parts) or f"{found.path}: no run here or below"


def _problems(found: Status) -> Iterator[str]:
    """A line for each run or stage of which something cannot be read."""
    told = [(run.name, run.summary.problem) for run in found.runs]
    told += [(run.name, run.job.problem) for run in found.runs if run.job is not None]
    told += [(name, job.problem) for name, job in found.jobs.items()]
    return (f"! {one_line(f'{name}: {problem}')}" for name, problem in told if problem is not None)


def _row(status: RunStatus) -> list[str]:
    summary, job = status.summary, status.job
    return [
        summary.name,
        status.state,
        summary.progress,
        "-" if status.img_per_s is None else speed(status.img_per_s).removesuffix(" img/s"),
        left_text(status.eta_s, status.untimed_evaluations) or "-",
        "-" if summary.last_checkpoint is None else f"{summary.last_checkpoint:g}",
        "-" if job is None else str(sum(job.restarts.values())),
        "-" if job is None else job.job,
        "-" if job is None or not job.nodes else ",".join(job.nodes),
    ]


def _describe_run(status: RunStatus) -> str:
    """For a person: several lines."""
    summary, job = status.summary, status.job
    rows = [("state", status.state + _because(status))]
    done = f"{summary.kimg:g} of {summary.length_kimg:g} kimg"
    if status.img_per_s is not None:
        done += f", {speed(status.img_per_s)}"
    if left := left_text(status.eta_s, status.untimed_evaluations):
        done += f", {left} left"
    rows.append(("progress", done))
    if summary.source:
        rows.append(("source", summary.source))
        rows.append(("condition", summary.condition))
    if status.slowest is not None:
        rows.append(("slowest", status.slowest))
    rows.append(("checkpoint", _checkpoint(status)))
    if summary.best is not None:
        rows.append(("best", describe_best(summary.best)))
    if job is not None:
        rows += _job_rows(job)
    if status.stacks:
        rows.append(("hung", ", ".join(status.stacks)))
    rows += [("problem", problem) for problem in (summary.problem, job and job.problem) if problem]
    return _with_history(rows, job)


def _describe_driver(job: JobStatus) -> str:
    """For a person: several lines."""
    state = job.state if job.why is None else f"{job.state}: {job.why}"
    return _with_history([("state", state), *_job_rows(job)], job)


def _job_rows(job: JobStatus) -> Iterator[tuple[str, str]]:
    where = f" on {', '.join(job.nodes)}" if job.nodes else ""
    yield "job", f"{job.job}{where}; {duration(job.waited_s)} in the queue"
    yield "restarts", ", ".join(f"{count} x {reason}" for reason, count in job.restarts.items()) or "none"
    if job.blamed is not None:
        yield "node", job.blamed


def _with_history(rows: list[tuple[str, str]], job: JobStatus | None) -> str:
    width = max(len(name) for name, _ in rows)
    lines = [one_line(f"{name:<{width}}  {value}") for name, value in rows]
    if job is not None:
        lines += ["", *_told(job.history)]
    return "\n".join(lines)


def _because(status: RunStatus) -> str:
    job = status.job
    if status.state == status.summary.state == "failed" and (job is None or job.why is None):
        return f" {status.summary.failure}"
    return f": {job.why}" if job is not None and job.why is not None and job.state == status.state else ""


def _checkpoint(status: RunStatus) -> str:
    if status.summary.last_checkpoint is None:
        return "none yet"
    assert status.checkpoint_age_s is not None
    return f"{status.summary.last_checkpoint:g} kimg, saved {duration(status.checkpoint_age_s)} ago"


def _told(history: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each event, in local time."""
    for event in history:
        at = datetime.fromisoformat(event["time"]).astimezone()
        yield one_line(f"{at:%Y-%m-%d %H:%M:%S}  {_sentence(event)}")


def _sentence(event: dict[str, Any]) -> str:
    what, reason = event["event"], event.get("reason")
    if what == "submitted":
        where = f"{counted(event.get('ranks'), 'rank')} on {counted(event.get('nodes'), 'node')}"
        return f"submitted as job {event.get('job')}: {where}"
    if what == "started":
        return f"started on {_nodes(event)}, from {_place(event.get('newest'))}"
    if what == "requeued":
        saved = "saved" if event.get("saved", True) else "not saved in time"
        return f"{reason}: {saved}, and back in the queue{_took(event.get('seconds'), event.get('grace_s'))}"
    if what == "failed":
        return f"failed: {reason}{'; back in the queue' if event.get('again') else ''}"
    if what == "lost":
        return f"lost on {_nodes(event)}: {reason}"
    if what == "cancelled":
        return "asked to save and end"
    if what == "not cancelled":
        return f"Slurm refused: {reason}"
    if what == "stopped":
        return f"stopped: {reason}"
    return str(what)


def _nodes(event: dict[str, Any]) -> str:
    return ", ".join(event.get("nodes") or ["?"])


def _place(newest: str | None) -> str:
    """Where a start goes on from, by the name of what was saved last."""
    if newest is None:
        return "the beginning"
    return f"{images_of(newest) / 1000:g} kimg" if is_checkpoint_name(newest) else newest


def _took(seconds: float | None, grace_s: float | None) -> str:
    """How long a save on a signal took, and whether that will do the next time."""
    if seconds is None:
        return ""
    took = f", {seconds:.1f} s after the signal"
    if grace_s is None:
        return took
    tight = ": ask for a longer signal_delay_s" if seconds > _TIGHT * grace_s else ""
    return f"{took}, of {grace_s:g}{tight}"
