"""A neighbour search as a real Slurm job, on workers of two nodes, finds what one process finds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.pack import pack

if TYPE_CHECKING:
    from tests.drills.conftest import Slurm

NAMES = ("digits", "letters", "patches")


def search(folder: Path, out: str, *words: str) -> str:
    """What `spider neighbors` prints, with a feature cache of its own."""
    command = [sys.executable, "-m", "spider", "neighbors", *NAMES, "--embedding=offline", f"--out={out}", *words]
    environment = os.environ | {"SPIDER_CACHE": str(folder / f"cache-{out}")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def document(folder: Path, out: str) -> dict[str, Any]:
    return json.loads((folder / out / "neighbors.json").read_text())


def test_a_search_on_two_nodes_finds_what_one_process_finds(slurm: Slurm, tmp_path: Path) -> None:
    for name in NAMES:
        pack(f"builtin:{name}", tmp_path / name, resolution=16, subset=1500, workers=1, progress=False)
    said = search(tmp_path, "job", "--slurm=nodes=2,cpus_per_task=2,time=10")
    job = re.search(r"^job (\d+) on 2 nodes", said)
    assert job is not None, said
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "spider",
            "neighbors",
            *NAMES,
            "--embedding=offline",
            "--out=job",
            "--slurm=nodes=1,time=10",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert f"its job {job[1]} is still in the queue or running" in again.stderr
    state = slurm.wait_for_end(job[1])
    log = (tmp_path / "job" / "slurm" / f"{job[1]}_0_log.out").read_text()
    assert state == "COMPLETED", log
    assert "neighbours of digits, offline" in log
    search(tmp_path, "alone")
    assert document(tmp_path, "job") == document(tmp_path, "alone")
