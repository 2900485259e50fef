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
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HISTORY = "history.jsonl"

_BLAMED = 2  # failures that began on one node, before it is named


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


class History:
    """The events of a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / HISTORY

    def add(self, event: str, **about: Any) -> None:
        """Append an event. If the disk refuses, that is said on stderr: what the job does next matters more."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **about})
        try:
            with self.file.open("a+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"  # by a disk that was full
                file.write(b"\n" * torn + f"{line}\n".encode())
        except OSError as error:
            print(f"warning: {self.file}: {error.strerror}; not written: {line}", file=sys.stderr, flush=True)

    def read(self) -> list[Event]:
        """All events, oldest first; none without a file."""
        try:
            lines = self.file.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := _parsed(line)) is not None]


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
    nodes = {node for event in events if event.event == "started" for node in event["nodes"]}
    if len(nodes) < 2 or not failures:
        return None
    [(node, count)] = Counter(failures).most_common(1)
    if count < _BLAMED or 2 * count <= len(failures):
        return None
    return f"{node}: {count} of {len(failures)} failures began there; extra: {{exclude: {node}}} leaves it out"


def _parsed(line: str) -> Event | None:
    """None for a line that a full disk has cut short."""
    try:
        about = json.loads(line)
        return Event(datetime.fromisoformat(about.pop("time")), about.pop("event"), about)
    except (ValueError, KeyError, AttributeError):
        return None
