"""A training's processes end together, and with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sweeps.trial.process import TrainProcess, _environment

WORDS = ["dcgan", "--kimg", "900", "batch=8", "generator.width=0.05", "discriminator.width=0.05", "log.every_kimg=0.01"]


def words(digits: Path) -> list[str]:
    return [*WORDS, "--data", str(digits), "log.samples=4", "log.tensorboard=false", "engine.kind=auto"]


def ranks(run: Path) -> dict[str, int]:
    """Process by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(run).encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                environment = dict(line.partition(b"=")[::2] for line in (entry / "environ").read_bytes().split(b"\0"))
                found[environment[b"RANK"].decode()] = int(entry.name)
        except (OSError, KeyError):
            continue
    return found


def wait_for(what: Any) -> Any:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_ranks_end_with_the_process_that_started_them(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = "import sys, time; from pathlib import Path; from sweeps.trial.process import TrainProcess\n"
    code += "run, log, *words = sys.argv[1:]\n"
    code += "TrainProcess(Path(run), words, Path(), Path(log), processes=2, threads=1, gpus=False)\n"
    code += "time.sleep(600)"
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "log.txt"), *words(digits)]
    with subprocess.Popen(command) as parent:
        wait_for((run / "metrics.jsonl").is_file)
        assert set(ranks(run)) >= {"0", "1"}
        parent.kill()
        parent.wait()
    wait_for(lambda: not ranks(run))
    assert list((run / "checkpoints").iterdir())  # they were asked, and saved


def test_ranks_end_when_one_of_them_is_killed(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = TrainProcess(run, words(digits), tmp_path, tmp_path / "log.txt", processes=2, threads=1, gpus=False)
    wait_for((run / "metrics.jsonl").is_file)
    assert training.exit_code() is None
    os.kill(ranks(run)["1"], signal.SIGKILL)
    assert wait_for(training.exit_code)
    assert not ranks(run)
    assert training.error()


@pytest.mark.parametrize(
    "name", ["RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_PROCID", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"]
)
def test_a_training_is_no_part_of_the_job_that_ray_runs_in(name: str) -> None:
    assert name not in _environment({name: "1", "PATH": "x"}, 3, True)


def test_a_training_sees_the_gpus_of_its_trial_only() -> None:
    mine = {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert _environment(mine, 3, True) == {**mine, "OMP_NUM_THREADS": "3", "PYTHONUNBUFFERED": "1"}
    assert _environment(mine, 1, False)["CUDA_VISIBLE_DEVICES"] == ""
