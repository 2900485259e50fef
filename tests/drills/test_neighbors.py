"""A neighbour search as a real Slurm job of two nodes, preempted on its way, finds what one process finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.jobs.submission import Submission
from shards.pack import pack

if TYPE_CHECKING:
    from tests.drills.conftest import Slurm

NAMES = ("digits", "letters", "patches")


def spider(folder: Path, *words: str, code: int = 0) -> str:
    """What a command prints."""
    environment = os.environ | {"SPIDER_CACHE": str(folder / f"cache-{words[-1]}")}
    done = subprocess.run(
        [sys.executable, "-m", "spider", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def document(folder: Path, out: str) -> dict[str, Any]:
    return json.loads((folder / out / "neighbors.json").read_text())


def test_a_preempted_search_on_two_nodes_finds_what_one_process_finds(slurm: Slurm, tmp_path: Path) -> None:
    for name in NAMES:
        pack(f"builtin:{name}", tmp_path / name, resolution=16, subset=1500, workers=1, progress=False)
    search = ("neighbors", *NAMES, "--embedding=offline")
    launch = (*search, "--slurm=nodes=2,cpus_per_task=2,time=10", "--out", "job")
    spider(tmp_path, *launch)
    submission = Submission.read(tmp_path / "job" / "slurm")
    assert submission is not None
    job = submission.job
    assert f"its job {job} is still in the queue or running" in spider(tmp_path, *launch, code=2)
    slurm.wait_until((tmp_path / "job" / "slurm" / "progress").exists, "a first piece of work")
    first = slurm.left(job)
    slurm.says("scancel", "--signal=USR2", job)
    slurm.wait_until(lambda: slurm.restarts(job) == 1, "a place in the queue")
    slurm.wait_until(lambda: first.isdisjoint(slurm.left(job)), "an end of all processes of the first start")
    state = slurm.wait_for_end(job)
    log = spider(tmp_path, "logs", "job")
    assert state == "COMPLETED", log
    assert "neighbours of digits, offline" in log
    told = spider(tmp_path, "status", "job")
    assert told.startswith("state     finished")
    assert "preemption: saved, and back in the queue" in told
    assert slurm.restarts(job) == 1
    spider(tmp_path, *search, "--out", "alone")
    assert document(tmp_path, "job") == document(tmp_path, "alone")
