"""A neighbour search or a sweep as a job: a driver, and on Slurm a Ray cluster of the job's nodes.

    OUT/slurm/...         the job's own files: cluster/jobs/slurm_job.py; `spider status OUT`, `logs`, `cancel`
    OUT/slurm/progress    how many pieces of work, or evaluations of trials, there are: cluster/jobs/saves.py

Both resume by themselves from what is in OUT and in the caches, so every start of the job is the same command.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.command import JobCommand, RankCommand, RayCommand
from cluster.jobs.submission import Submission
from spider.errors import SpiderUsageError
from spider.jobs.submit import FOLDER, Place, command_script, submit_command

PROGRESS = "progress"


@dataclass(frozen=True)
class DriverJob:
    """A search or a sweep that is ready to be submitted.

    Attributes:
        verb: which one, `neighbors` or `sweep`.
        words: what stands after `spider VERB`, but for `--ray`.
        out: its folder.
        place: where it runs.
        ray: on this machine, what `--ray` is given; None: nothing. On Slurm the job's nodes are the Ray cluster.
        more_code: the user's own modules that it needs, see `submit_command`.
    """

    verb: str
    words: tuple[str, ...]
    out: Path
    place: Place
    ray: str | None = None
    more_code: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises SpiderUsageError, ClusterUsageError for what does not go together."""
        if self.ray is not None and not self.place.local:
            raise SpiderUsageError("--ray and --slurm: the job's nodes are the Ray cluster; give one of them")
        if self.place.local and self.place.request.tasks != 1:
            raise SpiderUsageError(
                f"slurm: tasks_per_node={self.place.request.tasks}: spider {self.verb} is one process"
            )
        self.command.tasks_per_node(self.place.request)

    @property
    def folder(self) -> Path:
        """Of the job's files."""
        return self.out.absolute() / FOLDER

    @property
    def name(self) -> str:
        """Of the job, where the request has none."""
        return f"spider-{self.verb}"

    @property
    def command(self) -> JobCommand:
        """What every process of the job runs."""
        program = (sys.executable, "-m", "spider", self.verb)
        if not self.place.local:
            return RayCommand((*program, "--ray=auto", *self.words), Path.cwd(), self.folder / PROGRESS)
        ray = () if self.ray is None else (f"--ray={self.ray}",)
        return RankCommand((*program, *ray, *self.words), Path.cwd())

    def script(self) -> str:
        """What sbatch would be given. Writes nothing, and needs no Slurm."""
        return command_script(self.command, self.place, self.folder, name=self.name)

    def submit(self) -> Submission:
        """Put the job into the queue, or start it here."""
        is_new = not self.out.exists()
        try:
            return submit_command(self.command, self.place, self.folder, name=self.name, more_code=self.more_code)
        except ClusterError:
            if is_new:  # nothing is left of what was refused
                with suppress(OSError):
                    self.out.rmdir()
            raise
