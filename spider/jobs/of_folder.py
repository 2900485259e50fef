"""The jobs of a folder: that of a run, a search or a sweep, or those of a pipeline's stages. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.history import History
from cluster.jobs.submission import Submission, cancel
from spider.errors import SpiderError
from spider.jobs.submit import FOLDER

STAGES = "stages"


class NotBegunError(SpiderError):
    """A job has no log yet.

    Attributes:
        folder: of its files.
    """

    def __init__(self, message: str, folder: Path) -> None:
        """A message for the user."""
        super().__init__(message)
        self.folder = folder


def pipelines_below(root: Path) -> list[Path]:
    """The folders of pipelines in a folder and below, by name."""
    return sorted({job.parents[2] for job in root.rglob(f"{STAGES}/*/job.json")})


def stage_folders(run: Path) -> dict[str, Path]:
    """By name, the folders of the jobs of a pipeline's stages, in the order of their submission."""
    folders = [file.parent for file in (run / STAGES).glob("*/job.json")]
    first = {folder: events[0].time for folder in folders if (events := History(folder).read())}
    return {folder.name: folder for folder in sorted(first, key=lambda folder: first[folder])}


def log_file(run: Path, rank: int) -> Path:
    """What a rank of a job prints: of a run's last one, or of the stage in a folder. Raises SpiderError without one."""
    folder = run / FOLDER if (run / FOLDER).is_dir() else run
    submission = Submission.read(folder)
    if submission is None:
        what = "no job was submitted for it (spider launch)"
        for pipeline in (run, run.parent):
            if stages := stage_folders(pipeline):
                listed = ", ".join(str(stage) for stage in stages.values())
                what = f"{'a' if pipeline == run else 'of a'} pipeline; its stages are {listed}"
                break
        raise SpiderError(f"{run}: {what}")
    log = submission.log(folder, rank)
    if not log.exists():
        ranks = submission.nodes * submission.tasks_per_node
        if rank < ranks:
            raise NotBegunError(f"{run}: job {submission.job} has no log of rank {rank}: it has not begun", folder)
        raise SpiderError(f"{run}: job {submission.job} has no log of rank {rank}: its ranks are 0 to {ranks - 1}")
    return log


def cancel_jobs(run: Path) -> list[str]:
    """End the job of a run, or all of a pipeline, the last one first. Their numbers. Raises SpiderError without any."""
    jobs, refused = [], []
    for folder in (run / FOLDER, *reversed(stage_folders(run).values())):
        try:
            job = cancel(folder)
        except ClusterError as error:  # the others are asked all the same
            refused.append(str(error))
        else:
            jobs += [] if job is None else [job]
    if refused:
        raise SpiderError("; ".join(refused))
    if not jobs:
        raise SpiderError(f"{run}: no job of it waits or runs")
    return jobs
