"""A search or a sweep as a job: submitted, shown, cancelled, and judged by its driver alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.errors import ClusterError, ClusterUsageError
from cluster.jobs.command import RayCommand
from cluster.jobs.history import History
from cluster.jobs.saves import PROGRESS, newest_in, note_progress
from spider import api
from spider.errors import SpiderUsageError
from spider.jobs.describe import describe
from spider.jobs.driver import DriverJob
from spider.jobs.submit import read_place

if TYPE_CHECKING:
    from tests.conftest import Programs

WORDS = ("--out=near", "--", "digits", "letters")


def job(out: Path, slurm: str = "nodes=2,time=60", ray: str | None = None) -> DriverJob:
    return DriverJob("neighbors", WORDS, out, read_place(slurm), ray)


def test_a_search_in_the_queue_is_shown_and_cancelled(tmp_path: Path, programs: Programs) -> None:
    programs.play("sbatch", "echo Submitted batch job 7")
    out = tmp_path / "near"
    made = job(out).submit()
    assert (made.job, made.command[-5:-3]) == ("7", ["--ray=auto", "--out=near"])
    programs.play("squeue", "echo 'PENDING|(Resources)'")
    programs.play("scancel")
    found = api.status(tmp_path)
    assert {name: each.state for name, each in found.drivers.items()} == {"near": "waiting"}
    assert not found.is_over
    assert "near  waiting" in describe(found)
    assert describe(api.status(out)).startswith("state     waiting: Resources\n")
    with pytest.raises(ClusterUsageError, match="its job 7 is still in the queue"):
        job(out).submit()
    assert api.cancel(out) == ["7"]
    assert programs.calls("scancel") == ["7"]
    programs.play("squeue")
    assert api.status(out).drivers["near"].state == "stopped"


def test_what_is_refused_leaves_nothing(tmp_path: Path, programs: Programs) -> None:
    programs.play("sbatch", "echo no such partition >&2; exit 1")
    with pytest.raises(ClusterError, match="no such partition"):
        job(tmp_path / "near").submit()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SpiderUsageError, match="--ray and --slurm"):
        job(tmp_path / "near", ray="auto")
    with pytest.raises(ClusterUsageError, match="tasks_per_node: one Ray on every node"):
        job(tmp_path / "near", "time=5,tasks_per_node=2")
    with pytest.raises(SpiderUsageError, match="tasks_per_node=2: spider neighbors is one process"):
        job(tmp_path / "near", "local,tasks_per_node=2")


def test_a_search_on_this_machine_leaves_its_history_and_its_log(digits: Path, patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "near"
    words = (f"--out={out}", "--embedding=offline", "--mode=screen", "--", str(digits), str(patches))
    DriverJob("neighbors", words, out, read_place("local")).submit()
    deadline = time.monotonic() + 300
    while not (found := api.status(out)).is_over:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    log = api.logs(out, 0).read_text()
    assert [event.event for event in History(out / "slurm").read()] == ["submitted", "started", "finished"], log
    assert "neighbours of digits, offline" in log
    assert (out / "neighbors.json").is_file()
    assert describe(found).startswith("state     finished\n")


def test_progress_is_counted_where_a_job_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "progress"
    note_progress()  # no driver of a job
    monkeypatch.setenv(PROGRESS, str(file))
    assert newest_in(file) is None
    note_progress()
    note_progress()
    assert newest_in(file) == "2 pieces of work"
    assert RayCommand(("a",), tmp_path, file).saves == file
