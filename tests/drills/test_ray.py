"""A command on Ray in a real Slurm job: on all nodes, whatever dies but the head, and again when that dies as well."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cluster.jobs.command import RayCommand
from cluster.jobs.history import History
from cluster.jobs.slurm_job import submit_job
from cluster.jobs.submission import cancel
from cluster.slurm.request import read_request

if TYPE_CHECKING:
    from tests.drills.conftest import Slurm

COUNT = 60
PACKAGES = ("cluster", "untrusted")


class Made(NamedTuple):
    """Where a number was squared, and in which start of the job."""

    node: str
    start: int


def start(folder: Path, *, seconds: float = 2.0) -> str:
    """A job that squares numbers on four workers, and takes `seconds` for each.

    What is done to it half way comes while it works, however late: a quarter of the numbers leaves it 20 s or more.
    """
    program = str(Path(__file__).parent / "squares.py")
    words = (sys.executable, program, str(COUNT), str(seconds), str(folder / "done"))
    request = read_request("nodes=2,cpus_per_task=2,time=10")
    return submit_job(RayCommand(words, folder.parent), request, folder, name="squares", packages=PACKAGES).job


def done(folder: Path) -> dict[int, Made]:
    """By number, how it was squared; rightly, and no number twice."""
    file = folder / "done"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    assert all(int(square) == int(number) ** 2 for number, square, *_ in lines)
    found = {int(number): Made(node, int(start)) for number, _, node, start in lines}
    assert len(found) == len(lines)
    return found


def events(folder: Path) -> list[str]:
    """What has happened to a job."""
    return [event.event for event in History(folder).read()]


def nodes(folder: Path) -> set[str]:
    """Those that have squared a number."""
    return {made.node for made in done(folder).values()}


def half_way(slurm: Slurm, folder: Path) -> None:
    def is_half_way() -> bool:
        return len(done(folder)) >= COUNT // 4 and nodes(folder) == {"n1", "n2"}

    slurm.wait_until(is_half_way, "a quarter of the numbers, and some of each node")


def test_a_node_whose_ray_dies_joins_again_and_a_cancelled_job_ends_everywhere(slurm: Slurm, tmp_path: Path) -> None:
    job = start(tmp_path / "job")
    half_way(slurm, tmp_path / "job")
    [raylet] = slurm.pids(job, "n2", "raylet/raylet")
    os.kill(raylet, signal.SIGKILL)
    slurm.wait_until(lambda: set(slurm.pids(job, "n2", "raylet/raylet")) - {raylet}, "another raylet")
    cancel(tmp_path / "job")
    slurm.wait_for_end(job)
    slurm.wait_until(lambda: not slurm.left(job), "an end of all processes")
    assert events(tmp_path / "job") == ["submitted", "started", "cancelled", "stopped"]


def test_a_lost_node_does_not_end_the_job(slurm: Slurm, tmp_path: Path) -> None:
    job = start(tmp_path / "job")
    half_way(slurm, tmp_path / "job")
    slurm.lose(job, "n2")
    assert slurm.wait_for_end(job) == "COMPLETED"
    assert events(tmp_path / "job") == ["submitted", "started", "finished"]
    assert set(done(tmp_path / "job")) == set(range(COUNT))
    assert nodes(tmp_path / "job") == {"n1", "n2"}


def test_a_head_that_dies_starts_again(slurm: Slurm, tmp_path: Path) -> None:
    job = start(tmp_path / "job")
    half_way(slurm, tmp_path / "job")
    os.kill(max(slurm.pids(job, "n1", "cluster.ray_node")), signal.SIGKILL)
    assert slurm.wait_for_end(job) == "COMPLETED"
    assert set(done(tmp_path / "job")) == set(range(COUNT))
    assert events(tmp_path / "job") == ["submitted", "started", "failed", "started", "finished"]
    slurm.wait_until(lambda: not slurm.left(job), "an end of all processes")
