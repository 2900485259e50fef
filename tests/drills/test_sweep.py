"""A sweep as a real Slurm job of two nodes, whose script is killed on its way, ends as its trials do by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.jobs.history import History
from cluster.jobs.submission import Submission
from shards.pack import pack
from spider.runs.directory import RunDirectory
from tests.equal_runs import assert_equal_runs
from tests.every_axis import EVERY_AXIS

if TYPE_CHECKING:
    from tests.drills.conftest import Slurm

SABOTEUR = Path(__file__).parent / "saboteur"
KEYS = [
    *EVERY_AXIS,
    "batch=16",
    "generator.width=0.05",
    "discriminator.width=0.05",
    "checkpoint.every_kimg=0.16",
    "log.every_kimg=0.08",
    "log.samples=4",
    "evaluate.every_kimg=0.32",
    "evaluate.embedding=offline",
    "evaluate.count=64",
]
KIMG, RATES = 0.64, (1e-4, 2e-4, 3e-4)  # more trials than one node has cores


def sweep_file(folder: Path) -> Path:
    overrides = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in KEYS)}
    sweep = {
        "config": "dcgan",
        "data": str(folder / "digits"),
        "kimg": KIMG,
        "overrides": overrides,
        "space": {"g_optimizer.lr": {"grid": list(RATES)}},
        "resources": {"gpus": 0},
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file


def by_hand(folder: Path) -> list[Path]:
    """The same trainings, and nothing happens to them."""
    runs = [folder / f"by-hand-{rate:g}" for rate in RATES]
    trainings = []
    for run, rate in zip(runs, RATES, strict=True):
        keys = [*KEYS, f"g_optimizer.lr={rate}"]
        words = ["train", "dcgan", f"--data={folder / 'digits'}", f"--run={run}", f"--kimg={KIMG}", *keys]
        trainings.append(subprocess.Popen([sys.executable, "-m", "spider", *words]))
    assert {training.wait() for training in trainings} == {0}
    return runs


def starts(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "environment.json").read_text())["starts"]
    return found


def test_a_sweep_whose_script_is_killed_ends_as_its_trials_by_hand(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack("builtin:digits", tmp_path / "digits", resolution=16, subset=500, workers=1, progress=False)
    whole = by_hand(tmp_path)
    out, killed = tmp_path / "sweep", tmp_path / "killed"
    words = ["sweep", str(sweep_file(tmp_path)), f"--out={out}", "--slurm=nodes=2,cpus_per_task=2,time=10"]
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SABOTEUR))
        patch.setenv("SABOTAGE", json.dumps({"sleep_s": 1.0, "once": str(killed)}))
        told = subprocess.run([sys.executable, "-m", "spider", *words], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    submission = Submission.read(out / "slurm")
    assert submission is not None
    job = submission.job

    def saved() -> list[Path]:
        return [run for run in out.glob("runs/*") if RunDirectory(run).checkpoint_names()]

    slurm.wait_until(lambda: len(saved()) == len(RATES) or History(out / "slurm").read()[-1].event == "failed", "saves")
    first = slurm.left(job)
    os.kill(min(slurm.pids(job, "n1", "slurm_script")), signal.SIGKILL)
    killed.touch()
    slurm.wait_until(lambda: slurm.restarts(job) == 1, "a place in the queue")
    slurm.wait_until(lambda: first.isdisjoint(slurm.left(job)), "an end of all processes of the first start")
    log = "".join(file.read_text() for file in (out / "slurm").glob("*_log.*"))
    assert slurm.wait_for_end(job) == "COMPLETED", log
    assert [event.event for event in History(out / "slurm").read()].count("started") == 2
    runs = sorted((out / "runs").iterdir())
    for run, undisturbed in zip(runs, whole, strict=True):
        assert_equal_runs(run, undisturbed)
        assert [start["from_images"] > 0 for start in starts(run)] == [False, True]
    slurm.wait_until(lambda: not slurm.left(job), "an end of all processes")
