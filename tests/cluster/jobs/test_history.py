"""What has happened is read as it was written, whatever a full disk did to it; and counted, and blamed on a node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.jobs.history import Event, History, blamed, in_vain, is_cancelled
from untrusted.errors import UnreadableError


def events(*given: tuple[str, dict[str, object]]) -> list[Event]:
    return [Event(datetime.now(UTC), name, about) for name, about in given]


def saved(name: str, newest: str | None) -> tuple[str, dict[str, object]]:
    return name, {"newest": newest}


def start(*nodes: str) -> tuple[str, dict[str, object]]:
    return "started", {"nodes": [*nodes]}


def failure(node: str | None, again: bool = True) -> tuple[str, dict[str, object]]:
    return "failed", {"node": node, "again": again}


def test_events_are_read_as_they_were_added(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.read() == []
    history.add("started", job="7", start=0, nodes=["ä"], ranks=1)
    history.add("finished", job="7")
    first, last = history.read()
    about = {"job": "7", "start": 0, "nodes": ["ä"], "ranks": 1}
    assert (first.event, first.about, last.event) == ("started", about, "finished")
    assert (first["job"], first["reason"]) == ("7", None)
    assert timedelta(0) <= datetime.now(UTC) - last.time < timedelta(minutes=1)


@pytest.mark.parametrize(
    "torn", ["caf\udce9", '{"time": "2026-', "", "null", '{"event": "started"}', '{"time": "now", "event": "x"}']
)
def test_a_line_that_is_no_event_is_passed_over(tmp_path: Path, torn: str) -> None:
    history = History(tmp_path)
    history.add("submitted")
    with history.file.open("a", errors="surrogateescape") as file:  # also bytes that are no text
        file.write(f"{torn}\n")
    history.add("finished")
    assert [event.event for event in history.read()] == ["submitted", "finished"]


@pytest.mark.parametrize(
    ("given", "newest", "count"),
    [
        ([], None, 0),
        ([saved("failed", "1"), saved("failed", "1")], "1", 2),
        ([saved("failed", "1"), saved("lost", "1")], "1", 2),
        ([saved("failed", "1"), saved("failed", "1")], "2", 0),  # saved meanwhile
        ([saved("failed", None), saved("failed", "1"), saved("started", "1"), saved("failed", "1")], "1", 2),
        ([saved("failed", "1"), saved("requeued", None), saved("failed", "1")], "1", 2),
        ([saved("failed", "1"), saved("submitted", None), saved("failed", "1")], "1", 1),
        ([saved("failed", "1"), saved("submitted", None)], "1", 0),
    ],
)
def test_starts_in_vain_are_counted(given: list[tuple[str, dict[str, object]]], newest: str | None, count: int) -> None:
    assert in_vain(events(*given), newest) == count


def test_a_node_on_which_failures_begin_is_named() -> None:
    told = blamed(events(start("n1", "n2"), failure("n2"), failure("n2"), failure("n1")))
    assert told == "n2: 2 of 3 failures began there; extra: {exclude: n2} leaves it out"


@pytest.mark.parametrize(
    "given",
    [
        [start("n1", "n2"), failure("n2")],  # once is chance
        [start("n1"), failure("n1"), failure("n1")],  # where else
        [start("n1", "n2"), failure("n1"), failure("n2"), failure("n1"), failure("n2")],  # both
        [start("n1", "n2"), failure("n2", again=False), failure("n2", again=False)],  # no fault of a node
        [start("n1", "n2"), failure(None), failure(None)],
    ],
)
def test_a_node_is_not_blamed_without_reason(given: list[tuple[str, dict[str, object]]]) -> None:
    assert blamed(events(*given)) is None


@pytest.mark.parametrize(
    ("given", "cancelled"),
    [
        ([], False),
        ([("cancelled", {"job": "7"})], True),
        ([("cancelled", {"job": "6"})], False),  # and what was submitted since has not been written down yet
        ([("cancelled", {"job": "7"}), ("not cancelled", {"job": "7"})], False),
    ],
)
def test_a_job_is_cancelled_by_its_number(given: list[tuple[str, dict[str, object]]], cancelled: bool) -> None:
    assert is_cancelled(events(*given), "7") is cancelled


def test_a_history_that_no_job_writes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("started")
    with history.file.open("a") as file:
        file.truncate(5 << 20)
    assert history.read() == []
    with pytest.raises(UnreadableError, match=r"history\.jsonl: has 5,242,880 bytes; at most 4,194,304 are read"):
        history.rows()
