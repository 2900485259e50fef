"""How runs and their jobs are: for who comes back on Monday. Reads small files, asks squeue, and needs no torch.

A run may have been started by `spider launch`, with a job and a history beside it, or by hand, with neither.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.jobs.history import Event, History, blamed
from cluster.jobs.submission import JOB, Submission
from cluster.slurm.queue import SUSPENDED, job_state
from shards.missing import no_such
from spider.config.load import make_config, read_mapping
from spider.errors import SpiderError
from spider.jobs.launch import SUBMITTED
from spider.jobs.pipeline import pipelines_below, stage_folders
from spider.jobs.submit import FOLDER
from spider.runs.directory import RunDirectory, images_of
from spider.runs.listing import RunSummary, describe_best, find_runs, name_of, summarise, unreadable
from spider.runs.records import is_checkpoint_name
from spider.tables import aligned, duration, speed
from untrusted.counts import counted
from untrusted.errors import UnreadableError
from untrusted.terminal import one_line

_TIGHT = 0.5  # of the time before a job's end: more is too much for a save, since Slurm may send its signal late
_SILENT = "ended without a word"
_TO_THE_QUEUE = ("submitted", "requeued", "failed", "lost", "stopped")


@dataclass(frozen=True)
class JobStatus:
    """The job of a run, or of a stage of a pipeline.

    Attributes:
        job: its number.
        state: `waiting` (`why` says for what), `running`, `suspended` (Slurm holds its processes), `unknown` (`why`
            says where to ask), `finished`, `stopped`, `failed`, `never started`, `ended without a word`,
            or `unreadable` (`problem` says which file).
        why: of a state that needs a reason.
        nodes: on which it runs, or ran last.
        since: when that state began, in UTC.
        began: when its last start did, in seconds since 1970.
        restarts: how often it went on, by the reason.
        waited_s: in the queue, all together.
        blamed: a node on which failures begin again and again.
        history: all that happened, oldest first.
        problem: what cannot be read of it, in one line.
    """

    job: str
    state: str
    why: str | None
    nodes: list[str]
    since: str | None
    began: float
    restarts: dict[str, int]
    waited_s: float
    blamed: str | None
    history: list[dict[str, Any]]
    problem: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.state not in ("waiting", "running", "suspended", "unknown")


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        summary: see `spider.runs.listing`.
        img_per_s, eta_s: of its last row (see `spider.runs.timing`); None where it does not run, or has none.
        slowest: the rank that is clearly slower than the others, in words.
        checkpoint_age_s: of the newest one.
        stacks: files of ranks that hung.
        has_begun: whether it has written a row since its job's last start.
        is_whole: whether all that belongs to its length has been done, also the last evaluation.
        job: None for one that was started by hand.
    """

    summary: RunSummary
    img_per_s: float | None
    eta_s: float | None
    slowest: str | None
    checkpoint_age_s: float | None
    stacks: list[str]
    has_begun: bool
    is_whole: bool
    job: JobStatus | None

    @property
    def name(self) -> str:
        """Its path below the folder that was asked for."""
        return self.summary.name

    @property
    def state(self) -> str:
        """Of the job where there is one and the run is not over."""
        whole = self.summary.state == "finished" and self.is_whole
        if self.job is None or self.summary.state == "unreadable" or (whole and self.job.is_over):
            return self.summary.state
        if self.job.state == "suspended":  # and its processes are in the run all the while
            return self.job.state
        if self.job.state == "running" and not self.has_begun and self.summary.state != "running":
            return "starting"
        return "running" if self.summary.state == "running" else self.job.state

    @property
    def is_over(self) -> bool:
        """Whether nothing will change by itself."""
        return self.state not in ("running", "running?", "starting", "waiting", "suspended", "unknown")

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "state": self.state}


@dataclass(frozen=True)
class Status:
    """What `spider status` shows.

    Attributes:
        path: what was asked for.
        runs: every run there and below, also those that only have been submitted.
        stages: the jobs of a pipeline, by the stage's name; of those below a folder, by PIPELINE/NAME.
        drivers: the jobs of neighbour searches and sweeps, by their folders.
    """

    path: str
    runs: list[RunStatus]
    stages: dict[str, JobStatus]
    drivers: dict[str, JobStatus]

    @property
    def jobs(self) -> dict[str, JobStatus]:
        """Of all that is no training, by name."""
        return {**self.stages, **self.drivers}

    @property
    def is_over(self) -> bool:
        """Whether nothing of it waits or runs."""
        return all(run.is_over for run in self.runs) and all(job.is_over for job in self.jobs.values())

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        stages, drivers = ({name: asdict(job) for name, job in jobs.items()} for jobs in (self.stages, self.drivers))
        return {"path": self.path, "runs": [run.as_json() for run in self.runs], "stages": stages, "drivers": drivers}


def status(path: str | Path) -> Status:
    """Of a run, a pipeline, a search or a sweep, or of all in a folder and below. Raises SpiderError without one."""
    root = Path(path)
    if not root.is_dir():
        raise SpiderError(no_such(root))
    begun = {directory.path for directory in find_runs(root)}
    submitted = {file.parents[1] for file in root.rglob(f"{FOLDER}/{SUBMITTED}")}
    runs = [_status(RunDirectory(run), job_status(run / FOLDER), root) for run in sorted(begun | submitted)]
    stages = {
        name if pipeline == root else f"{pipeline.relative_to(root)}/{name}": job_status(folder)
        for pipeline in pipelines_below(root)
        for name, folder in stage_folders(pipeline).items()
    }
    drivers = {name_of(RunDirectory(out), root): job_status(out / FOLDER) for out in _driver_folders(root)}
    return Status(str(path), runs, _there(stages), _there(drivers))


def _driver_folders(root: Path) -> list[Path]:
    """Of searches and sweeps that were submitted as jobs: a training's job has its configuration beside it."""
    folders = {file.parent for file in root.rglob(f"{FOLDER}/{JOB}")}
    return sorted(folder.parent for folder in folders if not (folder / SUBMITTED).exists())


def _there(jobs: dict[str, JobStatus | None]) -> dict[str, JobStatus]:
    return {name: job for name, job in jobs.items() if job is not None}


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
    return "\n\n".join(parts) or f"{found.path}: no run here or below"


def _problems(found: Status) -> Iterator[str]:
    """A line for each run or stage of which something cannot be read."""
    told = [(run.name, run.summary.problem) for run in found.runs]
    told += [(run.name, run.job.problem) for run in found.runs if run.job is not None]
    told += [(name, job.problem) for name, job in found.jobs.items()]
    return (f"! {one_line(f'{name}: {problem}')}" for name, problem in told if problem is not None)


def job_status(folder: Path) -> JobStatus | None:
    """Of the job whose files are in `folder`; None if there never was one."""
    try:
        return _job_status(folder)
    except (ClusterError, UnreadableError, OSError) as error:
        return JobStatus("?", "unreadable", None, [], None, 0.0, {}, 0.0, None, [], problem=str(error))


def _job_status(folder: Path) -> JobStatus | None:
    submission = Submission.read(folder)
    if submission is None:
        return None
    told = History(folder).rows()
    state, why, nodes = _state(submission, told.rows)
    if state == _SILENT:  # unless it has said something since its history was read
        told = History(folder).rows()
        state, why, nodes = _state(submission, told.rows)
    events = told.rows
    last = events[-1] if events else None
    return JobStatus(
        job=submission.job,
        state=state,
        why=why,
        nodes=nodes,
        since=None if last is None else last.time.isoformat(timespec="seconds"),
        began=max((event.time.timestamp() for event in events if event.event == "started"), default=0.0),
        restarts=dict(Counter(_restart_reason(event) for event in _restarts(events))),
        waited_s=_waited_s(events, state),
        blamed=blamed(events),
        history=[{"time": event.time.isoformat(), "event": event.event, **event.about} for event in events],
        problem=told.warning,
    )


def _describe_run(status: RunStatus) -> str:
    """For a person: several lines."""
    summary, job = status.summary, status.job
    rows = [("state", status.state + _because(status))]
    done = f"{summary.kimg:g} of {summary.length_kimg:g} kimg"
    if status.img_per_s is not None:
        done += f", {speed(status.img_per_s)}"
    if status.eta_s is not None:
        done += f", {duration(status.eta_s)} left"
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


def _status(directory: RunDirectory, job: JobStatus | None, root: Path) -> RunStatus:
    try:
        return _run_status(directory, job, root)
    except OSError as error:
        return RunStatus(unreadable(directory, root, error), None, None, None, None, [], False, False, job)


def _run_status(directory: RunDirectory, job: JobStatus | None, root: Path) -> RunStatus:
    summary = summarise(directory, root) if directory.exists else _not_begun(directory, root)
    try:
        row = directory.last_row()
    except (SpiderError, OSError):  # the summary says so
        row = None
    has_begun = job is not None and row is not None and job.began < directory.metrics_file.stat().st_mtime
    running = has_begun and job.state == "running" if job else summary.state in ("running", "running?")
    timing = row["timing"] if running and row is not None else {}
    names = directory.checkpoint_names()
    saved = (directory.checkpoints / names[-1]).stat().st_mtime if names else None
    return RunStatus(
        summary=summary,
        img_per_s=timing.get("img_per_s"),
        eta_s=timing.get("left_s"),
        slowest=_slowest(row) if running and row is not None else None,
        checkpoint_age_s=None if saved is None else max(0.0, time.time() - saved),
        stacks=[str(file) for file in sorted(directory.stacks.glob("*.txt")) if file.stat().st_size],
        has_begun=has_begun,
        is_whole=directory.success_file.exists(),
        job=job,
    )


def _not_begun(directory: RunDirectory, root: Path) -> RunSummary:
    """A run that was submitted, and has written nothing yet."""
    file = directory.path / FOLDER / SUBMITTED
    name = name_of(directory, root)
    try:
        length = make_config(read_mapping(file), (), str(file)).kimg if file.exists() else 0.0
    except (SpiderError, OSError) as error:
        return unreadable(directory, root, error)
    return RunSummary(name, "never started", length_kimg=length)


def _state(submission: Submission, events: Sequence[Event]) -> tuple[str, str | None, list[str]]:
    """State, reason, nodes."""
    last = events[-1] if events else None
    began = next((event for event in reversed(events) if event.event == "started"), None)
    nodes = list(began["nodes"] or []) if began is not None and began["job"] == submission.job else []
    over = last is not None and (
        last.event in ("finished", "stopped") or (last.event == "failed" and not last["again"])
    )
    # Slurm may start again what was stopped; nothing else comes after an end
    alive = False if over and last is not None and last.event != "stopped" else submission.is_alive()
    if alive is None and not over:
        return "unknown", f"ask on {submission.host}" if submission.local else "squeue does not answer here", nodes
    if alive:
        asked = None if submission.local else job_state(submission.job)
        if asked is not None and asked[0] == "PENDING":
            return "waiting", asked[1], nodes
        if asked is not None and asked[0] in SUSPENDED:
            return "suspended", f"by Slurm; scontrol resume {submission.job} lets it go on, unless Slurm does", nodes
        if submission.local and last is not None and last.event == "submitted":
            return "waiting", None, []
        return "running", "asked to save and end" if last is not None and last.event == "cancelled" else None, nodes
    if last is None or last.event in ("submitted", "started", "requeued", "cancelled"):
        # A job that was cancelled while it waited has nothing to tell
        if last is not None and last.event == "cancelled" and (len(events) < 2 or events[-2].event != "started"):
            return "stopped", "cancelled", nodes
        if last is not None and last.event == "submitted":
            return "never started", "it left the queue: a stage before it failed, or it was cancelled there", nodes
        return _SILENT, "neither in the queue nor running", nodes
    if last.event == "lost" or (last.event == "failed" and last["again"]):
        return _SILENT, last["reason"], nodes
    return last.event, last["reason"], nodes


def _restarts(events: Sequence[Event]) -> Iterator[Event]:
    """The events after which the same job started again, or will."""
    for event, following in zip_longest(events, events[1:]):
        by_slurm = following is not None and following.event == "started" and following["job"] == event["job"]
        if event.event in ("requeued", "lost") or event["again"] or (event.event == "stopped" and by_slurm):
            yield event


def _restart_reason(event: Event) -> str:
    if event.event == "requeued":
        return str(event["reason"])
    return {"lost": "lost start", "failed": "failure", "stopped": "requeued by Slurm"}.get(event.event, event.event)


def _waited_s(events: Sequence[Event], state: str) -> float:
    """Of the last job: from its submission, and each return to the queue, to the start that came of it."""
    total, since = 0.0, None
    for event in events:
        if event.event == "submitted":  # another job
            total = 0.0
        if event.event in _TO_THE_QUEUE:
            since = event.time
        elif event.event in ("started", "cancelled") and since is not None:
            # Clocks of two machines: the start may be said to come before
            total, since = total + max(0.0, (event.time - since).total_seconds()), None
    if since is not None and state == "waiting":
        total += (datetime.now(UTC) - since).total_seconds()
    return total


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


def _slowest(row: dict[str, Any]) -> str | None:
    timing = row["timing"]
    if timing.get("slowest_rank") is None:
        return None
    waits = f"; most data wait: rank {timing.get('data_wait_rank')}, {timing.get('data_wait_percent', 0.0):.1f} %"
    return f"rank {timing['slowest_rank']}, {timing.get('slowest_rank_percent', 0.0):+.0f} % on the mean{waits}"


def _row(status: RunStatus) -> list[str]:
    summary, job = status.summary, status.job
    return [
        summary.name,
        status.state,
        f"{summary.kimg:g}/{summary.length_kimg:g}",
        "-" if status.img_per_s is None else speed(status.img_per_s).removesuffix(" img/s"),
        "-" if status.eta_s is None else duration(status.eta_s),
        "-" if summary.last_checkpoint is None else f"{summary.last_checkpoint:g}",
        "-" if job is None else str(sum(job.restarts.values())),
        "-" if job is None else job.job,
        "-" if job is None or not job.nodes else ",".join(job.nodes),
    ]
