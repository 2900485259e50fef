"""How a run is, from the files of one in every state: made by hand, since the drills wait for real ones."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.jobs.submission import Submission, record_submission
from cluster.lock import alone_in
from cluster.world import World
from spider import api
from spider.config.load import load_config, to_yaml
from spider.errors import SpiderError
from spider.jobs.describe import describe
from spider.jobs.job_status import job_status
from spider.jobs.launch import SUBMITTED
from spider.jobs.status import RunStatus, status
from spider.jobs.submit import FOLDER
from spider.runs.directory import RunDirectory, checkpoint_name
from spider.tables import duration, speed

if TYPE_CHECKING:
    from tests.conftest import Programs

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
CONFIG = load_config("dcgan", ["data.path=nowhere", "kimg=100", "batch=64"])


class Run:
    """A run and its job, as far as files go."""

    def __init__(self, path: Path, programs: Programs, stack: ExitStack) -> None:
        self.directory, self.programs, self._stack = RunDirectory(path), programs, stack
        self.folder = path / FOLDER
        self._at = NOON

    def submit(self, job: str = "7", *, begin: bool = False) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / SUBMITTED).write_text(to_yaml(CONFIG))
        Submission(job, 2, 2, ["a"], "code", {}).write(self.folder)
        self.happens("submitted", job=job, nodes=2, ranks=4)

    def queued(self, answer: str) -> None:
        """What squeue says of it: `RUNNING|n[1-2]`."""
        self.programs.play("squeue", f"echo '{answer}'" if answer else "true")

    def happens(self, event: str, after_s: float = 60.0, **about: object) -> None:
        """So long after what happened before."""
        self._at += timedelta(seconds=after_s)
        with (self.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps({"time": self._at.isoformat(), "event": event, **about}) + "\n")

    def starts(self, start: int = 0, newest: str | None = None, after_s: float = 60.0, job: str = "7") -> None:
        self.happens("started", after_s, job=job, start=start, nodes=["n1", "n2"], ranks=4, newest=newest)

    def trains(self, kimg: float, *, now: bool = True, **timing: object) -> None:
        """It has a configuration, a row, and a checkpoint at 10 kimg; and somebody is in it."""
        self.directory.write_config(CONFIG)
        (self.directory.checkpoints / checkpoint_name(10_000)).mkdir(parents=True, exist_ok=True)
        row = {"images": round(kimg * 1000), "kimg": kimg, "timing": {"img_per_s": 50.0, "left_s": 1600.0, **timing}}
        self.directory.metrics_file.write_text(json.dumps(row) + "\n")
        if now:
            self._stack.enter_context(alone_in(self.directory.path, World.single()))

    def found(self) -> RunStatus:
        [run] = status(self.directory.path).runs
        return run

    def state(self) -> tuple[str, str | None]:
        found = self.found()
        return found.state, found.job.why if found.job else None

    def told(self) -> str:
        return describe(status(self.directory.path))


@pytest.fixture
def run(tmp_path: Path, programs: Programs) -> Iterator[Run]:
    with ExitStack() as stack:
        yield Run(tmp_path / "one", programs, stack)


def test_one_that_waits(run: Run) -> None:
    run.submit()
    run.queued("PENDING|(Resources)")
    assert run.state() == ("waiting", "Resources")
    assert not run.found().is_over
    assert (run.found().summary.length_kimg, run.found().job.nodes) == (100, [])
    assert run.told().startswith("state       waiting: Resources\n")


def test_one_whose_ranks_have_begun_and_not_trained(run: Run) -> None:
    run.submit()
    run.starts()
    run.queued("RUNNING|n[1-2]")
    assert run.state() == ("starting", None)
    assert not run.found().is_over
    assert run.found().job.nodes == ["n1", "n2"]


def test_one_that_runs(run: Run) -> None:
    run.submit()
    run.starts()
    run.queued("RUNNING|n[1-2]")
    slow = {"slowest_rank": 3, "slowest_rank_percent": 41.7, "data_wait_rank": 1, "data_wait_percent": 12.34}
    run.trains(20, **slow)
    os.utime(run.directory.checkpoints / checkpoint_name(10_000), (time.time() - 7200,) * 2)
    found = run.found()
    assert (found.state, found.is_over, found.img_per_s, found.eta_s) == ("running", False, 50, 1600)
    assert found.checkpoint_age_s == pytest.approx(7200, abs=600)
    told = run.told()
    assert "progress    20 of 100 kimg, 50 img/s, 26.7 minutes left\n" in told
    run.trains(100, now=False, left_s=0.0, evaluations_left=1, evaluation_s=None)
    assert "progress    100 of 100 kimg, 50 img/s, 1 evaluation left\n" in run.told()
    assert "condition   none\n" in told
    assert "slowest     rank 3, +42 % on the mean; most data wait: rank 1, 12.3 %\n" in told
    assert "checkpoint  10 kimg, saved 2.0 hours ago\n" in told
    assert "job         7 on n1, n2; 60 s in the queue\n" in told


@pytest.mark.parametrize("answer", ["SUSPENDED|n[1-2]", "STOPPED|n[1-2]"])
def test_one_that_slurm_holds(run: Run, answer: str) -> None:
    run.submit()
    run.starts()
    run.trains(20)  # its processes are there, and keep its lock
    run.queued(answer)
    found = run.found()
    assert (found.state, found.is_over, found.img_per_s, found.eta_s) == ("suspended", False, None, None)
    assert run.told().startswith("state       suspended: by Slurm; scontrol resume 7 lets it go on")


def test_clocks_that_differ_make_no_time_in_the_queue_negative(run: Run) -> None:
    run.submit()
    run.starts(after_s=-300)
    run.queued("RUNNING|n[1-2]")
    assert "job         7 on n1, n2; 0 s in the queue\n" in run.told()


def test_one_that_was_asked_to_end_and_has_not_yet(run: Run) -> None:
    run.submit()
    run.starts()
    run.happens("cancelled", job="7", start=0)
    run.queued("RUNNING|n[1-2]")
    run.trains(20)
    assert run.state() == ("running", "asked to save and end")
    assert run.told().startswith("state       running: asked to save and end\n")


@pytest.mark.parametrize(
    ("event", "about", "state"),
    [
        ("finished", {}, ("finished", None)),
        ("stopped", {"reason": "cancelled"}, ("stopped", "cancelled")),
        ("failed", {"reason": "no such shard", "again": False, "rank": 0, "node": "n1"}, ("failed", "no such shard")),
    ],
)
def test_one_whose_job_has_ended(run: Run, event: str, about: dict[str, object], state: tuple[str, str | None]) -> None:
    run.submit()
    run.starts()
    run.happens(event, job="7", start=0, **about)
    run.trains(20, now=False)
    assert run.state() == state
    assert run.found().is_over
    assert (run.found().img_per_s, run.found().eta_s) == (None, None)


@pytest.mark.parametrize("last", [None, "requeued", "failed", "lost"])
def test_one_whose_job_is_gone_without_a_word(run: Run, last: str | None) -> None:
    run.submit()
    run.starts()
    if last is not None:
        run.happens(last, job="7", start=0, reason="r", again=True, seconds=1.0, nodes=["n1"])
    state, why = run.state()
    assert state == "ended without a word"
    assert why == ("r" if last in ("failed", "lost") else "neither in the queue nor running")
    assert run.found().is_over


def test_one_that_left_the_queue_and_never_ran(run: Run) -> None:
    run.submit()
    state, why = run.state()
    assert (state, why and why.partition(":")[0]) == ("never started", "it left the queue")
    assert run.found().is_over


def test_one_that_was_cancelled_while_it_waited(run: Run) -> None:
    run.submit()
    run.happens("cancelled", job="7", start=0)
    assert run.state() == ("stopped", "cancelled")


def test_one_that_is_whole_has_finished_whatever_its_job_says(run: Run) -> None:
    run.submit()
    run.starts()
    run.happens("failed", job="7", start=0, reason="a grid could not be drawn", again=False)
    run.trains(100, now=False)
    (run.directory.checkpoints / checkpoint_name(100_000)).mkdir()
    assert run.found().state == "failed"  # it owes its last evaluation
    run.directory.success_file.touch()
    assert run.found().state == "finished"


def test_one_that_was_started_by_hand_has_no_job(run: Run) -> None:
    run.trains(20)
    assert (run.state(), run.found().job) == (("running", None), None)
    assert "job " not in run.told()


def test_the_job_of_a_resubmission_is_the_one_that_counts(run: Run) -> None:
    run.submit()
    run.starts()
    run.happens("stopped", job="7", start=0, reason="cancelled")
    run.submit("8")
    run.queued("PENDING|(Priority)")
    found = run.found()
    assert (found.state, found.job.job, found.job.nodes) == ("waiting", "8", [])


def test_restarts_are_counted_by_their_reason(run: Run) -> None:
    run.submit()
    for start, (event, about) in enumerate(
        [
            ("requeued", {"reason": "time limit", "seconds": 4.25, "grace_s": 120}),
            ("requeued", {"reason": "time limit", "seconds": 90.0, "grace_s": 120}),
            ("failed", {"reason": "rank 1 on n1 was killed by SIGKILL", "again": True, "node": "n1"}),
            ("lost", {"reason": "it ended without a word", "nodes": ["n1", "n2"]}),
        ]
    ):
        run.starts(start, newest=None if start == 0 else checkpoint_name(12_300))
        run.happens(event, job="7", start=start, **about)
    run.starts(4)
    run.happens("failed", job="7", start=4, reason="no such shard", again=False)
    assert run.found().job.restarts == {"time limit": 2, "failure": 1, "lost start": 1}
    told = run.told()
    assert "restarts    2 x time limit, 1 x failure, 1 x lost start\n" in told
    for line in (
        "submitted as job 7: 4 ranks on 2 nodes",
        "started on n1, n2, from the beginning",
        "time limit: saved, and back in the queue, 4.2 s after the signal",
        "started on n1, n2, from 12.3 kimg",
        "failed: rank 1 on n1 was killed by SIGKILL; back in the queue",
        "lost on n1, n2: it ended without a word",
    ):
        assert f"  {line}" in told
    assert told.endswith("  failed: no such shard")


def test_a_node_on_which_failures_begin_is_told(run: Run) -> None:
    run.submit()
    for start in range(3):
        run.starts(start)
        run.happens("failed", job="7", start=start, reason="r", again=True, node="n2")
    assert "node        n2: 3 of 3 failures began there; extra: {exclude: n2} leaves it out\n" in run.told()


def test_the_wait_is_from_each_queueing_to_its_start(run: Run) -> None:
    run.submit()
    run.starts(after_s=100)
    run.happens("requeued", after_s=1000, job="7", start=0, reason="time limit", seconds=1.0, grace_s=60)
    run.starts(1, after_s=30)
    run.happens("failed", after_s=1000, job="7", start=1, reason="r", again=True)
    run.starts(2, after_s=7)
    run.happens("finished", after_s=1000, job="7", start=2)
    assert run.found().job.waited_s == 137


def test_the_wait_goes_on_while_it_waits(run: Run) -> None:
    run.submit()
    run.queued("PENDING|(Priority)")
    since, before = NOON + timedelta(minutes=1), datetime.now(UTC)
    waited_s = run.found().job.waited_s
    assert (before - since).total_seconds() <= waited_s <= (datetime.now(UTC) - since).total_seconds()
    run.queued("")
    assert run.found().job.waited_s == 0


def test_ranks_that_hung_left_their_stacks(run: Run) -> None:
    run.trains(20, now=False)
    run.directory.stacks.mkdir()
    (run.directory.stacks / "rank-0.txt").touch()
    (run.directory.stacks / "rank-2.txt").write_text("File ...")
    assert run.found().stacks == [str(run.directory.stacks / "rank-2.txt")]
    assert f"hung        {run.directory.stacks}/rank-2.txt" in run.told()


def test_a_folder_of_runs_is_a_line_for_each(run: Run, tmp_path: Path) -> None:
    run.submit()
    run.queued("PENDING|(Resources)")
    other = RunDirectory(tmp_path / "deep" / "two")
    other.write_config(CONFIG)
    found = status(tmp_path)
    assert [(each.name, each.state) for each in found.runs] == [("deep/two", "never started"), ("one", "waiting")]
    assert not found.is_over
    header, *rows = describe(found).splitlines()
    assert header.split() == ["run", "state", "kimg", "img/s", "left", "checkpoint", "restarts", "job", "nodes"]
    assert [row.split()[0] for row in rows] == ["deep/two", "one"]
    assert rows[1].split() == ["one", "waiting", "0/100", "-", "-", "-", "0", "7", "-"]


def test_a_pipeline_is_a_line_for_each_stage(tmp_path: Path, programs: Programs) -> None:
    for number, (name, job) in enumerate([("train", "8"), ("pack", "7")]):
        stage = tmp_path / "cascade" / "stages" / name
        stage.mkdir(parents=True)
        Submission(job, 1, 1, ["a"], "code", {}).write(stage)
        events = [{"event": "submitted", "job": job, "nodes": 1, "ranks": 1}]
        if name == "pack":
            events += [{"event": "started", "job": job, "start": 0, "nodes": ["n1"], "ranks": 1, "newest": None}]
            events += [{"event": "finished", "job": job, "start": 0}]
        told = [json.dumps({"time": (NOON - timedelta(number)).isoformat(), **event}) + "\n" for event in events]
        (stage / "history.jsonl").write_text("".join(told))
    programs.play("squeue", "[ $3 = 8 ] && echo 'PENDING|(Dependency)'; true")
    found = status(tmp_path / "cascade")
    assert {name: job.state for name, job in found.stages.items()} == {"pack": "finished", "train": "waiting"}
    assert not found.is_over
    assert [line.split() for line in describe(found).splitlines()] == [
        ["stage", "state", "restarts", "job", "nodes", "why"],
        ["pack", "finished", "0", "7", "n1"],
        ["train", "waiting", "0", "8", "-", "Dependency"],
    ]
    stage = describe(status(tmp_path / "cascade" / "stages" / "pack"))
    assert stage.startswith("state     finished\njob       7 on n1")
    above = status(tmp_path)  # a folder of pipelines and runs
    assert list(above.stages) == ["cascade/pack", "cascade/train"]
    assert not above.is_over


def test_the_run_of_a_stage_has_the_stages_job(run: Run, tmp_path: Path) -> None:
    run.queued("RUNNING|n1")
    run.trains(20)
    file = tmp_path / "stages.yaml"
    file.write_text("stages: {g1: {verb: train, config: dcgan, data: x, run: '{run}/one'}}")
    [stage] = api.read_pipeline(file, tmp_path, "nodes=1,gpus_per_node=0,time=60")
    stage.folder.mkdir(parents=True)
    record_submission("8", stage.command, stage.place.request, stage.folder, tmp_path / "code")
    for path in (tmp_path, run.directory.path):
        [found] = status(path).runs
        assert found.job is not None
        assert found.job.job == "8"


def test_it_is_plain_data(run: Run) -> None:
    run.submit()
    run.starts()
    run.queued("RUNNING|n[1-2]")
    run.trains(20)
    told = json.loads(json.dumps(status(run.directory.path).as_json(), allow_nan=False))
    [found] = told["runs"]
    assert (found["state"], found["summary"]["kimg"], found["job"]["history"][1]["nodes"]) == (
        "running",
        20,
        ["n1", "n2"],
    )


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert describe(status(tmp_path)) == f"{tmp_path}: no run here or below"
    assert status(tmp_path).is_over
    assert job_status(tmp_path) is None
    (tmp_path / "sweep.yaml").touch()
    for report, outcome in (
        (None, "sweep not finished"),
        ('{"complete": false}', "sweep not finished"),
        ('{"complete": true}', "sweep finished"),
        ("[", "sweep.json cannot be read: "),
    ):
        if report is not None:
            (tmp_path / "sweep.json").write_text(report)
        assert describe(status(tmp_path)).startswith(f"{tmp_path}: {outcome}")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "neighbors.json").touch()
    assert describe(status(tmp_path / "search")) == f"{tmp_path / 'search'}: search finished"
    with pytest.raises(SpiderError, match=r"nowhere: no such folder$"):
        status(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (89, "89 s"), (90, "1.5 minutes"), (5399, "90.0 minutes"), (5400, "1.5 hours"), (588e6, "18.6 years")],
)
def test_a_duration_is_short(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("img_per_s", "said"),
    [
        (0.0, "0 img/s"),
        (0.0017, "6.1 img/hour"),
        (0.0234, "0.023 img/s"),
        (7.51, "7.5 img/s"),
        (9.99, "10 img/s"),
        (1234.5, "1,234 img/s"),
    ],
)
def test_a_speed_is_never_rounded_to_nothing(img_per_s: float, said: str) -> None:
    assert speed(img_per_s) == said
