"""What many trainings take together, of which one, or one of each kind, is measured for a few steps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.world import World
from spider.config.schema import Config
from spider.cost.dry_run import DryRun, dry_run
from spider.runs.directory import RunDirectory
from spider.runs.inputs import find_inputs
from spider.runs.start import prepare
from spider.tables import duration, size


@dataclass(frozen=True)
class ManyCost:
    """The figures.

    Attributes:
        at_once: trainings at a time.
        hours: of all that are left, one after the other.
        disk_gb: of all, those that are over among them.
        free_gb: free space where their folder is, or will be.
    """

    at_once: int
    hours: float
    disk_gb: float
    free_gb: float

    def rows(self, what: str) -> list[list[str]]:
        """For a person. `what` they are: `trials`."""
        return [
            ["all of them", f"{duration(self.hours * 3600)} of {what}; {self.together(self.hours)}"],
            self.disk_row(),
        ]

    def disk_row(self) -> list[str]:
        """For a person."""
        return ["disk", f"{size(self.disk_gb * 2**30)}; {size(self.free_gb * 2**30)} are free"]

    def together(self, hours: float) -> str:
        """`2.1 hours with 2 at a time`, of so many one after the other."""
        return f"{duration(hours * 3600 / self.at_once)} with {self.at_once} at a time"

    def shortage(self, what: str) -> list[str]:
        """A line if the disk has no room for them."""
        if self.disk_gb <= self.free_gb:
            return []
        return [f"the {what} need {size(self.disk_gb * 2**30)} of disk, and {size(self.free_gb * 2**30)} are free"]


def length_of(one: DryRun, count: int = 1) -> str:
    """`12 kimg: 2.1 hours, measured here on CPU`; of several `2.1 hours each`."""
    each = " each" if count > 1 else ""
    return f"{one.kimg:g} kimg: {duration(one.hours * 3600)}{each}, measured here on {one.device}"


def free_gb(folder: Path) -> float:
    """Free space where a folder is, or will be. `folder`: absolute."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free / 2**30


def measured(config: Config, run: Path, *, threads: int, gpus: bool = True) -> DryRun:
    """A training, as one process.

    Args:
        config: composed, and checked.
        run: its folder, which need not be there.
        threads: that it will have.
        gpus: whether it may have one.

    Raises:
        SpiderError, ShardsError, MachineError: what it reads is not there or does not fit; there is no memory for it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, threads))
    try:
        device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        world = World.single(device if config.compute.device == "auto" else config.compute.device)
        found, _ = find_inputs(config, {}, world)
        directory = RunDirectory(run)
        return dry_run(prepare(found, directory), world, begins=not directory.checkpoint_names())
    finally:
        torch.set_num_threads(before)
