"""A training as a job of ranks, on Slurm or on this machine. Needs no torch, but for a forecast of the disk.

    RUN/slurm/submitted.yaml   the configuration; every start of the job reads this one
    RUN/slurm/...              the job's own files: cluster/jobs/slurm_job.py

`RUN/config.yaml`, as of any run, is what the newest start has made of it.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.command import RankCommand
from cluster.jobs.submission import Submission
from spider.clock import times_due
from spider.config.load import to_yaml
from spider.config.schema import Config
from spider.errors import SpiderUsageError
from spider.jobs.submit import FOLDER, Place, command_script, read_place, submit_command
from spider.runs.directory import RunDirectory, RunRef, images_of
from spider.runs.request import TrainRequest
from spider.settings.choices import outside_packages

SUBMITTED = "submitted.yaml"


@dataclass(frozen=True)
class Forecast:
    """What a training will take, as far as that is known before it starts.

    Attributes:
        kimg, done_kimg: its length, and how much of it there is.
        img_per_s: of the run's last rows; None for a new one.
        hours: from here to the end, at that speed and with evaluations that take what the last ones took.
        slowest_img_per_s: the speed, evaluations included, at which it would just end before the job has had its time
            so often as is allowed.
        checkpoint_bytes: of one; None where that needs torch, and there is none.
        checkpoints: how many lie on disk at once, at most.
        free_bytes: of the disk.
    """

    kimg: float
    done_kimg: float
    img_per_s: float | None
    hours: float | None
    slowest_img_per_s: float | None
    checkpoint_bytes: int | None
    checkpoints: int
    free_bytes: int

    @property
    def disk_bytes(self) -> int | None:
        """Of all checkpoints."""
        return None if self.checkpoint_bytes is None else self.checkpoint_bytes * self.checkpoints


@dataclass(frozen=True)
class Launch:
    """A training that is ready to be submitted."""

    config: Config
    directory: RunDirectory
    place: Place
    branch: RunRef | None

    @property
    def folder(self) -> Path:
        """Of the job's files."""
        return self.directory.path / FOLDER

    @property
    def name(self) -> str:
        """Of the job, where the request has none."""
        return f"spider-{self.directory.path.name}"

    @property
    def command(self) -> RankCommand:
        """What every rank runs."""
        run = self.directory.path
        words = ["train", str(self.folder / SUBMITTED), "--run", str(run)]
        words += [] if self.branch is None else ["--from", str(self.branch)]
        return RankCommand(
            (sys.executable, "-m", "spider", *words), Path.cwd(), self.directory.checkpoints, self.directory.stacks
        )

    @property
    def has_finished(self) -> bool:
        """Whether the run is as long already, and owes nothing."""
        names = self.directory.checkpoint_names()
        long_enough = bool(names) and images_of(names[-1]) >= round(self.config.kimg * 1000)
        return long_enough and self.directory.success_file.exists()

    def script(self) -> str:
        """What sbatch would be given. Writes nothing, and needs no Slurm."""
        if self.place.local:
            raise SpiderUsageError("--dry-run: a local job has no script; `spider train --dry-run` measures")
        return command_script(self.command, self.place, self.folder, name=self.name)

    def submit(self) -> Submission:
        """Write the configuration, and put the job into the queue, or start it here."""
        is_new, notes = not self.directory.path.exists(), {SUBMITTED: to_yaml(self.config)}
        try:
            more_code = outside_packages(self.config.model_dump())
            return submit_command(
                self.command, self.place, self.folder, name=self.name, notes=notes, more_code=more_code
            )
        except ClusterError:
            if is_new:  # nothing is left of what was refused, and nothing taken that was there
                with suppress(OSError):
                    self.directory.path.rmdir()
            raise

    def forecast(self, checkpoint_bytes: int | None) -> Forecast:
        """What it will take.

        Args:
            checkpoint_bytes: the size of a checkpoint, if known; one that is there already says it itself.
        """
        config, directory, request = self.config, self.directory, self.place.request
        row = directory.last_row()
        timing = {} if row is None else row["timing"]
        speed, evaluation_s = timing.get("img_per_s"), timing.get("evaluation_s") or 0.0
        done = 0.0 if row is None else row["kimg"]
        due = times_due(round(done * 1000), round(config.kimg * 1000), config.batch, config.evaluate.every_kimg)
        left = max(0.0, config.kimg - done)
        seconds = (request.time_min * 60 - request.signal_delay_s) * (1 + request.max_timeouts)
        there = directory.checkpoint_names()
        if there:
            newest = directory.checkpoints / there[-1]
            checkpoint_bytes = sum(file.lstat().st_size for file in newest.iterdir())
        return Forecast(
            kimg=config.kimg,
            done_kimg=done,
            img_per_s=speed,
            hours=(left * 1000 / speed + due * evaluation_s) / 3600 if speed else None,
            slowest_img_per_s=None if self.place.local else left * 1000 / seconds,
            checkpoint_bytes=checkpoint_bytes,
            checkpoints=config.checkpoints_kept,
            free_bytes=shutil.disk_usage(_existing(directory.path)).free,
        )


def prepare_launch(request: TrainRequest, slurm: str) -> Launch:
    """Check all that can be checked where there is no GPU and no torch.

    Args:
        request: the training.
        slurm: see `read_place`.

    Raises:
        SpiderUsageError, ShardsUsageError, ClusterUsageError: the key, the value found and what would be valid.
    """
    place, composed = read_place(slurm), request.checked()
    directory, branch = RunDirectory(Path(request.run).absolute()), request.branch
    if branch is not None:
        branch = RunRef(RunDirectory(branch.directory.path.absolute()), branch.checkpoint)
    composed.for_world(place.ranks)
    return Launch(composed, directory, place, branch)


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(each for each in (path, *path.parents) if each.exists())
