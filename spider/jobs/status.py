"""How runs and their jobs are: for who comes back on Monday. Reads small files, asks squeue, and needs no torch.

A run may have been started by `spider launch`, with a job and a history beside it, or by hand, with neither.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.jobs.submission import JOB, Submission
from shards.missing import no_such
from spider.config.load import make_config, read_mapping
from spider.errors import SpiderError
from spider.jobs.job_status import JobStatus, job_status
from spider.jobs.launch import SUBMITTED
from spider.jobs.of_folder import pipelines_below, stage_folders
from spider.jobs.submit import FOLDER
from spider.runs.directory import RunDirectory
from spider.runs.listing import RunSummary, find_runs, name_of, summarise, unreadable
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        summary: see `spider.runs.listing`.
        img_per_s, eta_s: of its last row (see `spider.runs.timing`); None where it does not run, or has none.
        untimed_evaluations: evaluations still due that `eta_s` counts no time for, because none was made so far.
        slowest: the rank that is clearly slower than the others, in words.
        checkpoint_age_s: of the newest one.
        stacks: files of ranks that hung.
        has_begun: whether it has written a row since its job's last start.
        job: None for one that was started by hand.
    """

    summary: RunSummary
    img_per_s: float | None
    eta_s: float | None
    untimed_evaluations: int
    slowest: str | None
    checkpoint_age_s: float | None
    stacks: list[str]
    has_begun: bool
    job: JobStatus | None

    @property
    def name(self) -> str:
        """Its path below the folder that was asked for."""
        return self.summary.name

    @property
    def state(self) -> str:
        """Of the job where there is one and the run is not over."""
        whole = self.summary.state == "finished"
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
        outcome: whether the search or sweep of this folder has finished, by its report; None if a job says it.
    """

    path: str
    runs: list[RunStatus]
    stages: dict[str, JobStatus]
    drivers: dict[str, JobStatus]
    outcome: str | None = None

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
        runs = [run.as_json() for run in self.runs]
        return {"path": self.path, "outcome": self.outcome, "runs": runs, "stages": stages, "drivers": drivers}


def status(path: str | Path) -> Status:
    """Of a run, a pipeline, a search or a sweep, or of all in a folder and below. Raises SpiderError without one."""
    root = Path(path)
    if not root.is_dir():
        raise SpiderError(no_such(root))
    begun = {directory.path for directory in find_runs(root)}
    submitted = {file.parents[1] for file in root.rglob(f"{FOLDER}/{SUBMITTED}")}
    by_saves = _jobs_of_stages(root)
    runs = [
        _status(RunDirectory(run), job_status(run / FOLDER) or by_saves.get(_saves_of(run)), root)
        for run in sorted(begun | submitted)
    ]
    stages = {
        name if pipeline == root else f"{pipeline.relative_to(root)}/{name}": job_status(folder)
        for pipeline in pipelines_below(root)
        for name, folder in stage_folders(pipeline).items()
    }
    drivers = {name_of(RunDirectory(out), root): job_status(out / FOLDER) for out in _driver_folders(root)}
    if (root / JOB).is_file():  # a pipeline's stage
        drivers["."] = job_status(root)
    return Status(str(path), runs, _there(stages), _there(drivers), _outcome(root))


def _outcome(root: Path) -> str | None:
    """See Status. A search writes its report when it ends; a sweep also when it is stopped."""
    if (root / FOLDER / JOB).is_file():  # the job says it, also while it makes another report
        return None
    if any((root / name).is_file() for name in ("neighbors.json", "matrix.json")):
        return "search finished"
    if not (root / "sweep.yaml").is_file():
        return None
    try:
        complete = read_json(root / "sweep.json")["complete"] is True
    except FileNotFoundError:
        complete = False
    except (OSError, UnreadableError, KeyError, TypeError) as error:
        return f"sweep.json cannot be read: {error}"
    return "sweep finished" if complete else "sweep not finished"


def _jobs_of_stages(root: Path) -> dict[Path, JobStatus | None]:
    """By the folder that it saves in, the job of each stage of the pipelines in `root`, below or around it."""
    found: dict[Path, JobStatus | None] = {}
    for pipeline in {*pipelines_below(root), root.parent}:
        for stage in stage_folders(pipeline).values():
            try:
                submission = Submission.read(stage)
            except ClusterError:  # the stage's own line says so
                continue
            if submission is not None and submission.saves is not None:
                found[Path(submission.saves).resolve()] = job_status(stage)
    return found


def _saves_of(run: Path) -> Path:
    return RunDirectory(run).checkpoints.resolve()


def _driver_folders(root: Path) -> list[Path]:
    """Of searches and sweeps that were submitted as jobs: a training's job has its configuration beside it."""
    folders = {file.parent for file in root.rglob(f"{FOLDER}/{JOB}")}
    return sorted(folder.parent for folder in folders if not (folder / SUBMITTED).exists())


def _there(jobs: dict[str, JobStatus | None]) -> dict[str, JobStatus]:
    return {name: job for name, job in jobs.items() if job is not None}


def _status(directory: RunDirectory, job: JobStatus | None, root: Path) -> RunStatus:
    try:
        return _run_status(directory, job, root)
    except OSError as error:
        return RunStatus(unreadable(directory, root, error), None, None, 0, None, None, [], False, job)


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
        untimed_evaluations=0 if timing.get("evaluation_s") else timing.get("evaluations_left", 0),
        slowest=_slowest(row) if running and row is not None else None,
        checkpoint_age_s=None if saved is None else max(0.0, time.time() - saved),
        stacks=[str(file) for file in sorted(directory.stacks.glob("*.txt")) if file.stat().st_size],
        has_begun=has_begun,
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


def _slowest(row: dict[str, Any]) -> str | None:
    timing = row["timing"]
    if timing.get("slowest_rank") is None:
        return None
    waits = f"; most data wait: rank {timing.get('data_wait_rank')}, {timing.get('data_wait_percent', 0.0):.1f} %"
    return f"rank {timing['slowest_rank']}, {timing.get('slowest_rank_percent', 0.0):+.0f} % on the mean{waits}"
