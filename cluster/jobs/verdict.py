"""What becomes of a job when a start of it has ended: who failed, why, and whether it starts again.

    FOLDER/1234.2/rank-3.json    how rank 3 ended in start 2 of job 1234: `Ending`

Every rank's process writes how its command ended, if it can. Once all are gone, `settle` reads what they have said.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.errors import MachineError
from cluster.jobs.history import Event, History, in_vain, is_cancelled
from untrusted.counts import numbered
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

STOPPED = 130  # exit code of a command that was asked to stop, and saved

_ERROR_LINE = re.compile(r"error( \(rank (?P<rank>\d+)\))?: (?P<text>.*)")
_FAULTS_OF_THE_REQUEST = (1, 2)  # exit codes of what would fail the same the next time, if it says so in a line


@dataclass(frozen=True)
class Ending:
    """How the command of one rank ended.

    Attributes:
        rank, node: which one.
        code: its exit code; that of a signal is negative.
        error: the last error that it told, in one line; else its last line; else how it ended.
        told: whether it told it, `error: ...`.
        preempted: whether this rank was told that time is nearly over, or its nodes are wanted.
        cancelled: whether it was told to end.
        unsaved: whether it was asked to save and did not in time, and was killed for that.
        hung: where it was, if it made no step and ended for that.
        waited: whether that was in a collective, for other ranks.
    """

    rank: int
    node: str
    code: int
    error: str
    told: bool
    preempted: bool
    cancelled: bool
    unsaved: bool
    hung: str | None
    waited: bool

    @property
    def stopped(self) -> bool:
        """Whether it ended because it was asked to; before it could answer, a signal ends it."""
        asked = self.preempted or self.cancelled
        return self.code == STOPPED or self.unsaved or (asked and self.code in (-signal.SIGTERM, -signal.SIGINT))

    @property
    def failed(self) -> bool:
        """Whether it neither ended well nor because it was asked to."""
        return self.code != 0 and not self.stopped

    def write(self, folder: Path) -> None:
        """Into the folder of its start. OSError if the disk refuses."""
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".rank-{self.rank}.json"
        beside.write_text(json.dumps(asdict(self), indent=2) + "\n")
        beside.replace(folder / f"rank-{self.rank}.json")


@dataclass(frozen=True)
class Cause:
    """What a start failed of.

    Attributes:
        reason: in one line.
        rank, node: where it began; None if that cannot be told.
        lasting: whether the next start would fail the same.
    """

    reason: str
    rank: int | None = None
    node: str | None = None
    lasting: bool = False


@dataclass(frozen=True)
class Verdict:
    """What becomes of a job.

    Attributes:
        event: the last one of this start, see `cluster.jobs.history`.
        reason: of it.
        again: whether the job is to be started again.
    """

    event: str
    reason: str | None
    again: bool


def last_error(lines: Sequence[str], code: int, rank: int | None = None) -> tuple[bool, str]:
    """The last error that a command told, and whether it did; else its last line, or the signal that ended it.

    Args:
        lines: what it printed.
        code: its exit code.
        rank: the one whose errors count, where several ranks print into one log; None: there is one.
    """
    found = [(line.strip(), _ERROR_LINE.fullmatch(line.strip())) for line in lines if line.strip()]
    for _, told in reversed(found):
        if told and rank in (None, int(told["rank"] or 0)):
            return True, told["text"]
    if code < 0:
        return False, f"killed by {signal.Signals(-code).name}"
    return False, next((line for line, told in reversed(found) if not told), f"exit code {code}")


def start_folder(folder: Path, job: int | str, start: int) -> Path:
    """Where the ranks of a start say how they ended."""
    return folder / f"{job}.{start}"


def read_endings(folder: Path, job: int | str, start: int) -> list[Ending]:
    """Of the ranks that have said, by rank."""
    found = []
    for file in start_folder(folder, job, start).glob("rank-*.json"):
        with suppress(UnreadableError, OSError):
            found.append(checked(read_json(file), Ending, str(file)))
    return sorted(found, key=lambda ending: ending.rank)


def settle(
    history: History,
    job: str,
    start: int,
    max_failures: int,
    newest: str | None,
    *,
    is_ending: bool,
    led: bool = False,
) -> Verdict:
    """Decide how a start ended, and note it. Called once, when all of its ranks have ended.

    Args:
        history: of the job.
        job, start: which one.
        max_failures: so many starts in a row may fail that save nothing new.
        newest: what has been saved last.
        is_ending: whether the job is being ended from without, as far as the scheduler knows.
        led: whether process 0 alone decides, see `JobCommand`.
    """
    events = history.read()
    mine = [event for event in events if (event["job"], event["start"]) == (job, start)]
    if mine and mine[-1].event in ("requeued", "stopped"):  # rank 0 has said it
        return Verdict(mine[-1].event, mine[-1]["reason"], again=False)
    began = next((event for event in mine if event.event == "started"), None)
    endings = read_endings(history.file.parent, job, start)
    if led:
        endings = [ending for ending in endings if ending.rank == 0]
        began = began and replace(began, about={**began.about, "ranks": 1})
    vain = in_vain(events, newest) + _unrecorded(events, job, start)
    verdict, cause = _decide(is_cancelled(events, job), began, endings, max_failures, vain, is_ending)
    more: dict[str, Any] = {}
    if cause is not None:
        more = {"rank": cause.rank, "node": cause.node, "newest": newest, "again": verdict.again}
    if verdict.event == "lost":
        more = {"nodes": [] if began is None else began["nodes"], "newest": newest}
    why = {} if verdict.reason is None else {"reason": verdict.reason}
    history.add(verdict.event, job=job, start=start, **why, **more)
    return verdict


def settle_without_script(
    history: History, job: str, start: int, max_failures: int, newest: str | None, node: str
) -> Verdict:
    """Note that the script was killed that would have called `settle`, and decide. The ranks may still be saving.

    Args:
        history, job, start, max_failures, newest: as of `settle`.
        node: where the script ran.
    """
    events = history.read()
    vain = in_vain(events, newest) + _unrecorded(events, job, start)
    cause = Cause(f"the job's script was killed on {node}", None, node)
    verdict = _failed(cause, max_failures, vain)
    history.add(
        verdict.event, job=job, start=start, reason=verdict.reason, rank=None, node=node, newest=newest,
        again=verdict.again,
    )  # fmt: skip
    return verdict


def judge(endings: Sequence[Ending], began: Event | None) -> Cause:
    """Which rank failed first, as far as that can be told, and why.

    Args:
        endings: of the ranks that have said.
        began: the event `started`; None if it is not known how many there are.
    """
    failed = [ending for ending in endings if ending.failed]
    failed.sort(key=lambda ending: ending.cancelled)  # those that were asked to end before come last
    for ending in failed:  # what a rank says of itself; one that has lost another ends with exit code 3
        if ending.told and ending.code in _FAULTS_OF_THE_REQUEST:
            return Cause(ending.error, ending.rank, ending.node, lasting=True)
    missing = _missing(endings, began)
    if (hang := _hang(failed, missing, began)) is not None:
        return hang
    for ending in failed:
        if ending.code < 0 and not ending.cancelled:
            return _of(ending, f"was {ending.error}")
    for ending in failed:
        if ending.code not in (MachineError.exit_code, -signal.SIGKILL) and not ending.cancelled:
            return Cause(f"rank {ending.rank} on {ending.node}: {ending.error}", ending.rank, ending.node)
    for rank, node in missing.items():
        which = numbered("rank", missing) + (f" on {node}" if len(missing) == 1 else "")
        return Cause(f"{which} ended without a word: killed, or the node was lost", rank, node)
    for ending in failed:
        return Cause(f"rank {ending.rank} on {ending.node}: {ending.error}", ending.rank, ending.node)
    return Cause("it ended without a word: killed, or its node was lost")


def _decide(
    cancelled: bool,
    began: Event | None,
    endings: Sequence[Ending],
    max_failures: int,
    vain: int,
    is_ending: bool,
) -> tuple[Verdict, Cause | None]:
    all_have_said = began is not None and began["ranks"] == len(endings)
    if all_have_said and all(ending.code == 0 for ending in endings):
        return Verdict("finished", None, again=False), None
    if cancelled:
        return Verdict("stopped", "cancelled", again=False), None
    failed = [ending for ending in endings if ending.failed]
    # A rank that failed after it was told to end is no reason to start again what Slurm, or somebody, wants to end
    if all_have_said and all(ending.cancelled for ending in failed):
        by_slurm = any(ending.cancelled for ending in endings)
        more = f"; then {judge(endings, began).reason}" if failed else ""
        if by_slurm and not is_ending:  # the only word of a preemption where Slurm sends no other signal
            return Verdict("requeued", f"SIGTERM{more}", again=True), None
        return Verdict("stopped", ("told to end" if by_slurm else "stopped by a signal") + more, again=False), None
    cause = judge(endings, began)
    verdict = _failed(cause, max_failures, vain)
    if verdict.again and is_ending:  # Slurm itself starts again what it wants back; what somebody has ended stays so
        return Verdict("lost", cause.reason, again=False), cause
    return verdict, cause


def _failed(cause: Cause, max_failures: int, vain: int) -> Verdict:
    """Whether what failed starts again, after so many starts in a row that saved nothing new."""
    again = not cause.lasting and vain < max_failures
    gave_up = not cause.lasting and not again and max_failures > 0
    more = f"; {vain} starts in a row saved nothing new (max_failures={max_failures})" if gave_up else ""
    return Verdict("failed", cause.reason + more, again)


def _hang(failed: Sequence[Ending], missing: dict[int, str], began: Event | None) -> Cause | None:
    stuck = [ending for ending in failed if ending.hung is not None]
    if not stuck:
        return None
    own = [ending for ending in stuck if not ending.waited]
    if began is not None and len(own) == began["ranks"] > 1:
        return Cause(f"all ranks hung, rank {own[0].rank} in {own[0].hung}")
    for ending in own:
        others = sum(other.waited for other in stuck)
        return _of(ending, f"hung in {ending.hung}; {others} others waited for it")
    for rank, node in missing.items():
        return Cause(f"rank {rank} on {node} hung, and did not say where; {len(stuck)} waited for it", rank, node)
    if len(stuck) < len(failed):  # one that died has held the others up
        return None
    return Cause(f"all ranks hung, each waiting for others: rank {stuck[0].rank} in {stuck[0].hung}")


def _of(ending: Ending, what: str) -> Cause:
    return Cause(f"rank {ending.rank} on {ending.node} {what}", ending.rank, ending.node)


def _missing(endings: Sequence[Ending], began: Event | None) -> dict[int, str]:
    """The ranks that have said nothing, each with its node."""
    if began is None:
        return {}
    there, nodes = {ending.rank for ending in endings}, began["nodes"]
    on_each = max(1, began["ranks"] // len(nodes))
    return {rank: nodes[min(rank // on_each, len(nodes) - 1)] for rank in range(began["ranks"]) if rank not in there}


def _unrecorded(events: Sequence[Event], job: str, start: int) -> int:
    """How many starts in a row, up to this one, the history knows no end of: because the disk is full."""
    mine = [event for event in events if event["job"] == job]
    begun = [event["start"] for event in mine if event.event == "started"]
    ended = [event["start"] + 1 for event in mine if event.event in ("failed", "lost")]
    return int(start - max([*begun, *ended], default=0))
