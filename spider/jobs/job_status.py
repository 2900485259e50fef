"""How a job is: judged by the history of its folder, and by what the queue says. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.jobs.history import Event, History, blamed
from cluster.jobs.submission import Submission
from cluster.slurm.queue import SUSPENDED, job_state
from untrusted.errors import UnreadableError

_SILENT = "ended without a word"
_TO_THE_QUEUE = ("submitted", "requeued", "failed", "lost", "stopped")


@dataclass(frozen=True)
class JobStatus:
    """The job of a run, or of a stage of a pipeline.

    Attributes:
        job: its number.
        state: `waiting` (`why` says for what), `running`, `suspended` (Slurm holds its processes), `unknown` (`why`
            says where to ask), `finished`, `stopped`, `failed`, `never started`, `ended without a word`,
            or `unreadable` (`problem` says which file).
        why: of a state that needs a reason.
        nodes: on which it runs, or ran last.
        since: when that state began, in UTC.
        began: when its last start did, in seconds since 1970.
        restarts: how often it went on, by the reason.
        waited_s: in the queue, all together.
        blamed: a node on which failures begin again and again.
        history: all that happened, oldest first.
        problem: what cannot be read of it, in one line.
    """

    job: str
    state: str
    why: str | None
    nodes: list[str]
    since: str | None
    began: float
    restarts: dict[str, int]
    waited_s: float
    blamed: str | None
    history: list[dict[str, Any]]
    problem: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.state not in ("waiting", "running", "suspended", "unknown")


def job_status(folder: Path) -> JobStatus | None:
    """Of the job whose files are in `folder`; None if there never was one."""
    try:
        return _job_status(folder)
    except (ClusterError, UnreadableError, OSError) as error:
        return JobStatus("?", "unreadable", None, [], None, 0.0, {}, 0.0, None, [], problem=str(error))


def _job_status(folder: Path) -> JobStatus | None:
    submission = Submission.read(folder)
    if submission is None:
        return None
    told = History(folder).rows()
    state, why, nodes = _state(submission, told.rows)
    if state == _SILENT:  # unless it has said something since its history was read
        told = History(folder).rows()
        state, why, nodes = _state(submission, told.rows)
    events = told.rows
    last = events[-1] if events else None
    return JobStatus(
        job=submission.job,
        state=state,
        why=why,
        nodes=nodes,
        since=None if last is None else last.time.isoformat(timespec="seconds"),
        began=max((event.time.timestamp() for event in events if event.event == "started"), default=0.0),
        restarts=dict(Counter(_restart_reason(event) for event in _restarts(events))),
        waited_s=_waited_s(events, state),
        blamed=blamed(events),
        history=[{"time": event.time.isoformat(), "event": event.event, **event.about} for event in events],
        problem=told.warning,
    )


def _state(submission: Submission, events: Sequence[Event]) -> tuple[str, str | None, list[str]]:
    """State, reason, nodes."""
    last = events[-1] if events else None
    began = next((event for event in reversed(events) if event.event == "started"), None)
    nodes = list(began["nodes"] or []) if began is not None and began["job"] == submission.job else []
    over = last is not None and last.is_end
    # Slurm may start again what was stopped; nothing else comes after an end
    alive = False if over and last is not None and last.event != "stopped" else submission.is_alive()
    if alive is None and not over:
        return "unknown", f"ask on {submission.host}" if submission.local else "squeue does not answer here", nodes
    if alive:
        asked = None if submission.local else job_state(submission.job)
        if asked is not None and asked[0] == "PENDING":
            return "waiting", asked[1], nodes
        if asked is not None and asked[0] in SUSPENDED:
            return "suspended", f"by Slurm; scontrol resume {submission.job} lets it go on, unless Slurm does", nodes
        if submission.local and last is not None and last.event == "submitted":
            return "waiting", None, []
        return "running", "asked to save and end" if last is not None and last.event == "cancelled" else None, nodes
    if last is None or last.event in ("submitted", "started", "requeued", "cancelled"):
        # A job that was cancelled while it waited has nothing to tell
        if last is not None and last.event == "cancelled" and (len(events) < 2 or events[-2].event != "started"):
            return "stopped", "cancelled", nodes
        if last is not None and last.event == "submitted":
            return "never started", "it left the queue: a stage before it failed, or it was cancelled there", nodes
        return _SILENT, "neither in the queue nor running", nodes
    if last.event == "lost" or (last.event == "failed" and last["again"]):
        return _SILENT, last["reason"], nodes
    return last.event, last["reason"], nodes


def _restarts(events: Sequence[Event]) -> Iterator[Event]:
    """The events after which the same job started again, or will."""
    for event, following in zip_longest(events, events[1:]):
        by_slurm = following is not None and following.event == "started" and following["job"] == event["job"]
        if event.event in ("requeued", "lost") or event["again"] or (event.event == "stopped" and by_slurm):
            yield event


def _restart_reason(event: Event) -> str:
    if event.event == "requeued":
        return str(event["reason"])
    return {"lost": "lost start", "failed": "failure", "stopped": "requeued by Slurm"}.get(event.event, event.event)


def _waited_s(events: Sequence[Event], state: str) -> float:
    """Of the last job: from its submission, and each return to the queue, to the start that came of it."""
    total, since = 0.0, None
    for event in events:
        if event.event == "submitted":  # another job
            total = 0.0
        if event.event in _TO_THE_QUEUE:
            since = event.time
        elif event.event in ("started", "cancelled") and since is not None:
            # Clocks of two machines: the start may be said to come before
            total, since = total + max(0.0, (event.time - since).total_seconds()), None
    if since is not None and state == "waiting":
        total += (datetime.now(UTC) - since).total_seconds()
    return total
