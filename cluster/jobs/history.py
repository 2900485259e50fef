"""What has happened to a job, for whoever comes back on Monday: one line for each event, in the order of their writing.

    FOLDER/history.jsonl    {"time": "2026-11-20T18:02:11+00:00", "event": "started", "job": "1234", "start": 0, ...}

    submitted   job, nodes, ranks                      somebody asked for it
    started     job, start, nodes, ranks, newest       all ranks are about to begin; `newest`: what was saved last
    requeued    job, start, reason, seconds, grace_s   queued again, so many seconds after the signal; `saved`: or not
    failed      job, start, reason, rank, node, again  `again`: it was put into the queue again, by itself
    cancelled   job, start                             somebody asked for its end; `not cancelled`: Slurm refused
    lost        job, start, reason, nodes              a start that ended without a word, or that Slurm ends
    stopped     job, start, reason                     saved, and not to be started again
    finished    job, start

Written by whoever knows, with one write per line, so that lines of several processes do not mix. Needs no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from untrusted.errors import UnreadableError
from untrusted.rows import Rows, append_row, read_rows
from untrusted.terminal import warn

HISTORY = "history.jsonl"

_MAX_BYTES = 4 << 20  # more than ten thousand events, of which a year has a few hundred
_MOST_RANKS = 1_000_000  # each one that says nothing is listed
_NEEDED = {  # by what decides what becomes of a job
    "started": ("job", "start", "nodes", "ranks"),
    "failed": ("job", "start"),
    "lost": ("job", "start"),
}
_BLAMED = 2  # failures that began on one node, before it is named


class _Row(BaseModel):
    """What a line must be, as far as anybody reads it: see the module."""

    model_config = ConfigDict(extra="allow")

    # Times that every time zone has
    time: Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 2, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))]
    event: str
    job: str | None = None
    start: Annotated[int, Field(ge=0)] | None = None
    ranks: Annotated[int, Field(ge=1, le=_MOST_RANKS)] | None = None
    rank: int | None = None
    node: str | None = None
    nodes: int | list[str] | None = None
    newest: str | None = None
    reason: str | None = None
    again: bool | None = None
    saved: bool | None = None
    seconds: float | None = None
    grace_s: float | None = None

    @model_validator(mode="after")
    def _nodes_are_named(self) -> Self:
        """Only who submits knows no more than their number."""
        if self.nodes is not None and isinstance(self.nodes, int) != (self.event == "submitted"):
            raise ValueError(f"nodes of {self.event} are {'a number' if self.event == 'submitted' else 'names'}")
        return self

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        for key in _NEEDED.get(self.event, ()):
            if getattr(self, key) in (None, []):
                raise ValueError(f"an event {self.event!r} needs {key}")
        return self

    def to_event(self) -> Event:
        about = self.model_dump(exclude_unset=True)
        return Event(about.pop("time"), about.pop("event"), about)


@dataclass(frozen=True)
class Event:
    """One line.

    Attributes:
        time: in UTC.
        event: see the module.
        about: the rest of it.
    """

    time: datetime
    event: str
    about: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        """A part of `about`; None without one."""
        return self.about.get(key)

    @property
    def is_end(self) -> bool:
        """Whether the job does not go on after it, unless Slurm starts again what was stopped."""
        return self.event in ("finished", "stopped") or (self.event == "failed" and not self["again"])


class History:
    """The events of a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / HISTORY

    def add(self, event: str, **about: Any) -> None:
        """Append an event. If the disk refuses, that is said on stderr: what the job does next matters more."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **about})
        try:
            append_row(self.file, line)
        except OSError as error:
            warn(f"{self.file}: {error.strerror}; not written: {line}")

    def read(self) -> list[Event]:
        """All events, oldest first; none without a file. For a job, which goes on whatever became of its history."""
        try:
            return self.rows().rows
        except (UnreadableError, OSError) as error:
            warn(str(error))
            return []

    def rows(self) -> Rows[Event]:
        """All events, oldest first, and what is damaged. For a person, who is told.

        Raises UnreadableError: it is no file of rows, or larger than 4 MB; OSError: the storage refuses.
        """
        return read_rows(self.file, _Row, _MAX_BYTES).each(_Row.to_event)


def in_vain(events: Sequence[Event], newest: str | None) -> int:
    """How many starts in a row failed or were lost and saved nothing; `newest` is what has been saved last."""
    count = 0
    for event in reversed(events):
        if event.event == "submitted":  # somebody asked anew
            break
        if event.event in ("failed", "lost"):
            if event["newest"] != newest:
                break
            count += 1
    return count


def is_cancelled(events: Sequence[Event], job: str) -> bool:
    """Whether somebody wants this job to end."""
    told = [event.event for event in events if event["job"] == job and event.event in ("cancelled", "not cancelled")]
    return bool(told) and told[-1] == "cancelled"


def blamed(events: Sequence[Event]) -> str | None:
    """The node on which failures began again and again, in one line; None without one."""
    failures = [event["node"] for event in events if event.event == "failed" and event["again"] and event["node"]]
    nodes = {node for event in events if event.event == "started" for node in event["nodes"] or []}
    if len(nodes) < 2 or not failures:
        return None
    [(node, count)] = Counter(failures).most_common(1)
    if count < _BLAMED or 2 * count <= len(failures):
        return None
    return f"{node}: {count} of {len(failures)} failures began there; extra: {{exclude: {node}}} leaves it out"
