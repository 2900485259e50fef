"""Laws of what becomes of a job when a start of it has ended."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.jobs.history import Event, History
from cluster.jobs.verdict import Cause, Ending, judge, read_endings, settle, start_folder

KILLED, ABORTED, TERMINATED = -signal.SIGKILL, -signal.SIGABRT, -signal.SIGTERM


def ending(rank: int = 0, code: int = 0, error: str = "", **more: object) -> Ending:
    """Of a rank on one of the nodes n1 (ranks 0, 1) and n2."""
    usual = {"told": False, "preempted": False, "cancelled": False, "unsaved": False, "hung": None, "waited": False}
    return Ending(**{"rank": rank, "node": f"n{1 + rank // 2}", "code": code, "error": error, **usual, **more})


def told(rank: int, code: int, error: str) -> Ending:
    return ending(rank, code, error, told=True)


def began(ranks: int) -> Event:
    return Event(datetime.now(UTC), "started", {"ranks": ranks, "nodes": ["n1", "n2"]})


class Job:
    """A history, and the endings of the ranks of each start."""

    def __init__(self, folder: Path, max_failures: int = 3) -> None:
        self.folder, self.history, self.start, self.max_failures = folder, History(folder), -1, max_failures

    def submit(self) -> None:
        self.history.add("submitted", job="7", nodes=2, ranks=2)

    def begin(self, newest: str | None = None) -> None:
        self.start += 1
        self.history.add("started", job="7", start=self.start, nodes=["n1", "n2"], ranks=2, newest=newest)

    def end(self, *endings: Ending, newest: str | None = None, is_ending: bool = False, led: bool = False) -> bool:
        folder = start_folder(self.folder, 7, self.start)
        folder.mkdir()
        for each in endings:
            (folder / f"rank-{each.rank}.json").write_text(json.dumps(asdict(each)))
        return settle(self.history, "7", self.start, self.max_failures, newest, is_ending=is_ending, led=led).again

    def die(self, newest: str | None = None) -> bool:
        """A start in which a rank was killed."""
        self.begin(newest)
        return self.end(ending(0, TERMINATED, cancelled=True), ending(1, KILLED, "killed by SIGKILL"), newest=newest)

    @property
    def last(self) -> tuple[str, str | None]:
        event = self.history.read()[-1]
        return event.event, event["reason"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(tmp_path)
    made.submit()
    return made


@pytest.mark.parametrize("code", [1, 2])
def test_an_error_that_was_told_is_lasting(code: int) -> None:
    others = [ending(0, 1, "ValueError: x"), ending(1, KILLED, "killed by SIGKILL")]
    cause = judge([*others, told(3, code, "shard 7 is gone")], began(4))
    assert cause == Cause("shard 7 is gone", 3, "n2", lasting=True)


@pytest.mark.parametrize(
    ("endings", "rank", "reason"),
    [
        # Those that lost a rank say so, and end with exit code 3
        ([told(0, 3, "rank 1 is gone"), ending(1, KILLED, "killed by SIGKILL")], 1, "on n1 was killed by SIGKILL"),
        ([ending(1, 1, "ValueError: x"), ending(2, ABORTED, "killed by SIGABRT")], 2, "on n2 was killed by SIGABRT"),
        ([told(0, 3, "rank 2 is gone"), ending(2, 1, "ValueError: x")], 2, "on n2: ValueError: x"),
        ([told(1, 3, "the disk is full"), ending(0, TERMINATED, cancelled=True)], 1, "on n1: the disk is full"),
        # What was asked to end died of that
        ([ending(0, TERMINATED, "killed by SIGTERM", cancelled=True), ending(3, 7, "x")], 3, "on n2: x"),
        ([ending(0, 130, "stopped", cancelled=True), ending(3, 7, "x")], 3, "on n2: x"),
    ],
)
def test_the_rank_that_failed_first_is_named(endings: list[Ending], rank: int, reason: str) -> None:
    for order in (endings, endings[::-1]):
        cause = judge(order, None)
        assert (cause.rank, cause.lasting, cause.reason) == (rank, False, f"rank {rank} {reason}")


def test_a_rank_that_hangs_is_named_and_not_those_that_wait_for_it() -> None:
    waiting = [ending(rank, 1, hung="all_reduce (x.py:1)", waited=True) for rank in (0, 1, 3)]
    stuck = ending(2, 1, hung="read (shards/dataset.py:7)")
    found = Cause("rank 2 on n2 hung in read (shards/dataset.py:7); 3 others waited for it", 2, "n2")
    assert judge([*waiting, stuck], began(4)) == found
    assert judge([stuck, *waiting, ending(4, KILLED, "killed by SIGKILL")], began(5)) == found


def test_of_ranks_that_wait_none_is_blamed() -> None:
    waiting = [ending(rank, 1, hung="all_reduce (x.py:1)", waited=True) for rank in (0, 1, 3)]
    silent = judge(waiting, began(4))
    assert silent == Cause("rank 2 on n2 hung, and did not say where; 3 waited for it", 2, "n2")
    dead = judge([*waiting, ending(2, KILLED, "killed by SIGKILL")], began(4))
    assert dead == Cause("rank 2 on n2 was killed by SIGKILL", 2, "n2")
    nobody = judge(waiting[:2], began(2))
    assert nobody == Cause("all ranks hung, each waiting for others: rank 0 in all_reduce (x.py:1)")


def test_where_all_ranks_hang_no_node_is_blamed() -> None:
    stuck = [ending(rank, 1, hung="item (x.py:1)") for rank in range(4)]
    assert judge(stuck, began(4)) == Cause("all ranks hung, rank 0 in item (x.py:1)")


def test_a_lost_node_is_blamed_and_not_the_one_that_noticed() -> None:
    noticed = [told(rank, 3, "rank 0 of 4 failed sum") for rank in (0, 1)]
    lost = "ended without a word: killed, or the node was lost"
    assert judge(noticed, began(4)) == Cause(f"ranks 2, 3 {lost}", 2, "n2")
    assert judge([*noticed, ending(2, TERMINATED, cancelled=True)], began(4)) == Cause(f"rank 3 on n2 {lost}", 3, "n2")
    assert judge([], None) == Cause("it ended without a word: killed, or its node was lost")


def test_a_start_in_which_all_ranks_ended_well_is_the_last(job: Job) -> None:
    job.begin()
    assert not job.end(ending(0), ending(1))
    assert job.last == ("finished", None)


def test_a_rank_without_a_word_is_no_finish(job: Job) -> None:
    job.begin()
    assert job.end(ending(0))
    assert job.last[0] == "failed"


@pytest.mark.parametrize(
    ("endings", "reason"),
    [
        ([ending(0, 130), ending(1, 130)], "stopped by a signal"),
        ([ending(0, 130, cancelled=True), ending(1, 0)], "told to end"),
        ([ending(0, TERMINATED, cancelled=True), ending(1, 130)], "told to end"),
        (
            [ending(0, TERMINATED, cancelled=True), ending(1, 3, "rank 0 is gone", told=True, cancelled=True)],
            "told to end; then rank 1 on n1: rank 0 is gone",
        ),
    ],
)
def test_a_start_that_is_ended_from_without_is_no_failure(job: Job, endings: list[Ending], reason: str) -> None:
    job.begin()
    assert not job.end(*endings, is_ending=True)
    assert job.last == ("stopped", reason)


def test_sigterm_preempts_a_job_that_nobody_ends(job: Job) -> None:
    job.begin()
    assert job.end(ending(0, 130, cancelled=True), ending(1, 130))
    assert job.last == ("requeued", "SIGTERM")


def test_starts_that_cannot_be_noted_count_as_lost(job: Job) -> None:
    job.begin()
    job.start += 3  # the disk is full
    assert not job.end(ending(0, 1, "x"), ending(1, 1, "x"))


def test_starts_that_fail_before_they_can_be_noted_count_once(job: Job) -> None:
    def fail() -> bool:
        job.start += 1
        return job.end(ending(0, 1, "x"), ending(1, 1, "x"))

    assert [fail() for _ in range(4)] == [True, True, True, False]


def test_starts_that_slurm_ends_before_they_can_be_noted_count_once(job: Job) -> None:
    for _ in range(2):
        job.start += 1
        assert not job.end(is_ending=True)
    job.start += 1
    assert job.end(ending(0, 1, "x"), ending(1, 1, "x"))


def test_what_slurm_ends_is_not_asked_back(job: Job) -> None:
    """It may have been lost with a node, which Slurm itself puts into the queue again; or ended by somebody."""
    job.begin("1-kimg")
    assert not job.end(ending(0, TERMINATED, cancelled=True), is_ending=True)
    last = job.history.read()[-1]
    assert (last.event, last["nodes"], last["newest"]) == ("lost", ["n1", "n2"], None)


def test_a_start_that_was_not_noted_long_ago_counts_no_more(job: Job) -> None:
    job.start += 4
    job.begin()
    assert job.end(ending(0, 1, "x"), ending(1, 1, "x"))


def test_a_cancelled_job_does_not_start_again_whatever_its_ranks_did(job: Job) -> None:
    job.begin()
    job.history.add("cancelled", job="7", start=0)
    assert not job.end(ending(0, KILLED, "killed by SIGKILL"), told(1, 1, "no"))
    assert job.last == ("stopped", "cancelled")


@pytest.mark.parametrize("said", ["requeued", "stopped"])
def test_what_rank_0_has_said_is_not_said_again(job: Job, said: str) -> None:
    job.begin()
    job.history.add(said, job="7", start=0, reason="time limit")
    assert not job.end(ending(0, KILLED))
    assert job.last == (said, "time limit")


def test_a_told_error_is_the_end(job: Job) -> None:
    job.begin()
    assert not job.end(told(0, 2, "batch=7: no"), ending(1, TERMINATED, cancelled=True))
    event = job.history.read()[-1]
    assert (event.event, event["reason"], event["rank"], event["again"]) == ("failed", "batch=7: no", 0, False)


def test_failures_that_save_nothing_are_counted(job: Job) -> None:
    assert [job.die() for _ in range(4)] == [True, True, True, False]
    assert job.last == (
        "failed",
        "rank 1 on n1 was killed by SIGKILL; 3 starts in a row saved nothing new (max_failures=3)",
    )


def test_a_save_resets_the_count(job: Job) -> None:
    assert [job.die("000001-kimg") for _ in range(3)] == [True] * 3
    assert [job.die("000002-kimg") for _ in range(4)] == [True, True, True, False]


def test_a_submission_resets_the_count(job: Job) -> None:
    assert [job.die() for _ in range(4)][-1] is False
    job.submit()
    assert job.die()


def test_a_preemption_between_failures_resets_nothing(job: Job) -> None:
    assert [job.die() for _ in range(3)] == [True] * 3
    job.begin()
    job.history.add("requeued", job="7", start=job.start, reason="preemption", seconds=1.0)
    assert not job.die()


def test_with_no_failures_allowed_the_first_is_the_end(tmp_path: Path) -> None:
    strict = Job(tmp_path, max_failures=0)
    assert not strict.die()
    assert strict.last == ("failed", "rank 1 on n1 was killed by SIGKILL")


def test_a_torn_ending_is_none(tmp_path: Path) -> None:
    folder = start_folder(tmp_path, 7, 0)
    folder.mkdir()
    (folder / "rank-1.json").write_text(json.dumps(asdict(ending(1, 3))))
    (folder / "rank-0.json").write_text('{"rank": 0, "no')
    assert [each.rank for each in read_endings(tmp_path, 7, 0)] == [1]


@pytest.mark.parametrize(
    ("event", "about"),
    [
        ("started", {"start": 0, "ranks": 2, "nodes": []}),
        ("started", {"start": 0, "ranks": 2}),
        ("started", {"start": 0, "nodes": ["n1"]}),
        ("started", {"start": 0, "ranks": 0, "nodes": ["n1"]}),
        ("started", {"start": 0, "ranks": 10**12, "nodes": ["n1"]}),
        ("started", {"ranks": 2, "nodes": ["n1"]}),
        ("failed", {"again": True}),
        ("lost", {"start": -1}),
    ],
)
def test_a_damaged_event_decides_nothing(job: Job, event: str, about: dict[str, object]) -> None:
    job.history.add(event, job="7", **about)
    job.start = 0
    assert job.end(ending(0, KILLED, "killed by SIGKILL"))
    assert job.last == ("failed", "rank 0 on n1 was killed by SIGKILL")
    assert [each.event for each in job.history.read()] == ["submitted", "failed"]


def test_where_one_process_leads_the_end_of_the_others_means_nothing(job: Job) -> None:
    job.begin()
    assert not job.end(ending(0), ending(1, KILLED, "killed by SIGKILL"), led=True)
    assert job.last == ("finished", None)
    job.begin()
    assert not job.end(ending(0), led=True)  # the other's node was lost
    assert job.last == ("finished", None)
    job.begin()
    assert job.end(ending(1), led=True)
    assert job.last == ("failed", "rank 0 on n1 ended without a word: killed, or the node was lost")
    job.begin()
    assert not job.end(told(0, 1, "2 trials failed"), told(1, 3, "no answer"), led=True)
    assert job.last == ("failed", "2 trials failed")
