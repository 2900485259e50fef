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

from sweeps.trial.process import TrainProcess, environment_of

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
    assert not training.has_ended()
    os.kill(ranks(run)["1"], signal.SIGKILL)
    assert wait_for(training.has_ended)
    assert not ranks(run)
    cause = training.failure()
    assert cause is not None
    assert (cause.rank, cause.lasting) == (1, False)
    assert "SIGKILL" in cause.reason
    assert training.is_of_machine(cause)


LOST = "time.sleep({0}); print('error: rank 1 was lost', flush=True); sys.exit(3)"
NAMED = "time.sleep({0}); print('error (rank 1): a.tar is damaged', flush=True); sys.exit(1)"
RAISED = "time.sleep({0}); raise ValueError('a fault')"
KILLED = "time.sleep({0}); os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("codes", "reason", "lasting", "of_machine"),
    [
        ([LOST.format(0.3), NAMED.format(0)], "a.tar is damaged", True, False),
        ([LOST.format(0), NAMED.format(0.3)], "a.tar is damaged", True, False),
        ([LOST.format(0), RAISED.format(0.3)], "ValueError: a fault", False, False),
        ([LOST.format(0), KILLED.format(0.3)], "was killed by SIGKILL", False, True),
        ([RAISED.format(0)], "ValueError: a fault", False, False),
        ([LOST.format(0)], "error: rank 1 was lost", False, True),
    ],
)
def test_the_rank_that_is_the_cause_decides(
    codes: list[str], reason: str, lasting: bool, of_machine: bool, tmp_path: Path
) -> None:
    """Whichever rank ends first: another loses it, and ends with exit code 3."""
    (tmp_path / "spider").mkdir()  # stands for the program
    (tmp_path / "spider" / "__init__.py").touch()
    lines = ["import os, signal, sys, time", 'rank = os.environ.get("RANK", "0")']
    lines += [f"if rank == {str(rank)!r}: {code}" for rank, code in enumerate(codes)]
    (tmp_path / "spider" / "__main__.py").write_text("\n".join(lines))
    log = tmp_path / "log.txt"
    training = TrainProcess(tmp_path, [], tmp_path, log, processes=len(codes), threads=1, gpus=False)
    wait_for(training.has_ended)
    cause = training.failure()
    assert cause is not None
    assert cause.reason.endswith(reason.removeprefix("error: "))
    assert (cause.lasting, training.is_of_machine(cause)) == (lasting, of_machine)


@pytest.mark.parametrize(
    "name", ["RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_PROCID", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"]
)
def test_a_training_is_no_part_of_the_job_that_ray_runs_in(name: str) -> None:
    assert name not in environment_of({name: "1", "PATH": "x"}, 3, True)


def test_a_training_sees_the_gpus_of_its_trial_only() -> None:
    mine = {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert environment_of(mine, 3, True) == {**mine, "OMP_NUM_THREADS": "3", "PYTHONUNBUFFERED": "1"}
    assert environment_of(mine, 1, False)["CUDA_VISIBLE_DEVICES"] == ""
