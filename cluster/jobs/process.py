"""One process of one start of a job: it runs the command as its child, and says how that ended.

It hears Slurm's signals, which reach every process of a job:

    USR2   time is nearly over, or nodes are wanted   the command is asked to save and end (SIGTERM, exit code 130);
                                                      then process 0 puts the job back into the queue
    TERM   the job is cancelled, requeued, preempted  the command saves and ends
    TERM   the job's script was killed                the same; and process 0 puts the job back into the queue at once
    none   a rank dies, or ends badly                 the others end, and the script's last lines decide
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import children
from cluster.errors import ClusterError
from cluster.jobs.command import JobCommand
from cluster.jobs.history import History, is_cancelled
from cluster.jobs.saves import newest_in
from cluster.jobs.verdict import Ending, last_error, read_endings, start_folder
from cluster.process import birth
from cluster.slurm.place import SlurmTask
from cluster.slurm.signals import REQUEUED, JobSignals
from cluster.watchdog import hung_at, stacks_file, waits_for_others

if TYPE_CHECKING:
    pass

_POLL_S = 0.1
_REQUEUE_S = 25.0  # of the time before a job's end, for the requeue; what has not saved by then is killed
_OTHERS_S = 10.0  # for the files of other ranks to be seen here


class Leader:
    """The process that starts a job's ranks, and decides what becomes of the job when all of them have ended."""

    def __init__(self, pid: int, if_killed: Callable[[], None]) -> None:
        """Note who it is.

        Args:
            pid: its number on this node. If no such process is seen from here, it is never taken for killed.
            if_killed: what is to be done instead of what it would have decided.
        """
        self._pid = pid
        self._born = birth(pid)
        self.if_killed = if_killed

    @property
    def was_killed(self) -> bool:
        """Whether it is there no more, while its ranks are."""
        return self._born is not None and birth(self._pid) != self._born


class JobProcess:
    """One process of one start of a job."""

    def __init__(
        self,
        run: JobCommand,
        folder: Path,
        place: SlurmTask,
        signals: JobSignals,
        grace_s: float | None,
        leader: Leader,
    ) -> None:
        """Nothing is started before `work`.

        Args:
            run, folder: of the job.
            place: of this process in it.
            signals: as this process hears them.
            grace_s: how long before its end the job is told of it; None: it is not limited.
            leader: of the ranks; rank 0, which is on the same node, acts for it if it was killed.
        """
        self.run = run
        self.folder = folder
        self.place = place
        self.signals = signals
        self.grace_s = grace_s
        self.leader = leader
        self.history = History(folder)

    def work(self, why: Callable[[], str], requeue: Callable[[], None]) -> None:
        """Run the command to its end; SystemExit with its exit code if that is not 0.

        Args:
            why: asked for the reason when the job is preempted.
            requeue: called by rank 0 when all is saved, to put the job into the queue again; ends this process.
        """
        if is_cancelled(self.history.read(), str(self.place.job_id)):  # while the nodes were made ready
            if self.place.rank == 0:
                self.history.add("stopped", **self._here(), reason="cancelled")
            return
        if self.place.rank == 0:
            self._begin()
        ending = self._attend()
        with suppress(OSError):  # a disk that takes nothing any more; the exit code still tells
            ending.write(start_folder(self.folder, self.place.job_id, self.place.restarts))
        if self.place.rank == 0 and ending.stopped and self._was_preempted(ending):
            self._requeue(ending, why, requeue)
        children.kill_all()
        if not ending.stopped and ending.code != 0:
            sys.exit(ending.code if 0 < ending.code != REQUEUED else 1)

    def _begin(self) -> None:
        """Note the start, and the one before if it had no end."""
        place, events = self.place, self.history.read()
        if events and events[-1].event == "started":
            before = events[-1].about
            reason = "it ended without a word: a lost node, or killed from without"
            lost = {key: before.get(key) for key in ("job", "start", "nodes", "newest")}
            self.history.add("lost", reason=reason, **lost)
        if self.run.stacks is not None:
            for file in self.run.stacks.glob("rank-*.txt"):
                file.unlink(missing_ok=True)  # of an earlier start, perhaps of more ranks
        newest = newest_in(self.run.saves)
        self.history.add("started", **self._here(), nodes=place.nodes, ranks=place.size, newest=newest)

    def _attend(self) -> Ending:
        """Start the command, pass on what Slurm wants, wait for its end."""
        children.adopt_orphans()
        output = children.Output()
        stacks = None if self.run.stacks is None else self.run.stacks / stacks_file(self.place.rank)
        if stacks is not None:
            stacks.unlink(missing_ok=True)
        command = children.start(
            self.run.words(self.folder),
            env=self.run.env(self.place),
            stdout=subprocess.PIPE,
            cwd=self.run.cwd,
            deaf_to=[signal.SIGUSR2],
        )
        output.follow(command)
        asked = unsaved = False
        while command.poll() is None:
            if not asked and self._is_asked():
                command.terminate()
                asked = True
                self._stand_in_for_leader()
            if not unsaved and self._is_too_late():
                command.kill()
                unsaved = True
            time.sleep(_POLL_S)
        told, error = last_error(output.last_lines(), command.returncode)
        hung = None if stacks is None or command.returncode != 1 else hung_at(stacks)
        return Ending(
            rank=self.place.rank,
            node=self.place.node,
            code=command.returncode,
            error=error,
            told=told,
            preempted=self.signals.preempted,
            cancelled=self.signals.cancelled,
            unsaved=unsaved,
            hung=hung,
            waited=hung is not None and stacks is not None and waits_for_others(stacks),
        )

    def _is_asked(self) -> bool:
        """Whether the command is to save and end now. What follows a driver stays until the driver has saved."""
        follows = self.run.led and self.place.rank != 0
        return self.signals.cancelled or (self.signals.preempted and not follows)

    def _stand_in_for_leader(self) -> None:
        """At once, not when all is saved: half a minute after the leader's death, Slurm kills this process as well."""
        here = self._here()
        if self.place.rank == 0 and self.leader.was_killed and not is_cancelled(self.history.read(), here["job"]):
            self.leader.if_killed()

    def _is_too_late(self) -> bool:
        """Whether the job's end is so near that it must be requeued now: one whose time is over stays ended."""
        told_at = self.signals.preempted_at
        if told_at is None or self.grace_s is None:
            return False
        return time.monotonic() > told_at + self.grace_s - min(_REQUEUE_S, self.grace_s / 2)

    def _requeue(self, ending: Ending, why: Callable[[], str], requeue: Callable[[], None]) -> None:
        """Ask to be started again, unless somebody wants the job to end."""
        here, reason, told_at = self._here(), why(), self.signals.preempted_at
        if is_cancelled(self.history.read(), here["job"]):
            self.history.add("stopped", **here, reason="cancelled")
            return
        try:
            requeue()
        except SystemExit:
            since = None if told_at is None else round(time.monotonic() - told_at, 2)
            saved = not ending.unsaved
            self.history.add("requeued", **here, reason=reason, seconds=since, grace_s=self.grace_s, saved=saved)
            raise
        except ClusterError as error:
            self.history.add("stopped", **here, reason=f"{reason}, and not started again: {error}")
            sys.exit(1)

    def _was_preempted(self, ending: Ending) -> bool:
        """Whether any rank was; the signal may have reached other nodes alone."""
        if ending.preempted or ending.cancelled or self.run.led:
            return ending.preempted
        deadline = time.monotonic() + _OTHERS_S
        while True:
            endings = read_endings(self.folder, self.place.job_id, self.place.restarts)
            if len(endings) == self.place.size or time.monotonic() > deadline:
                return any(ending.preempted for ending in endings)
            time.sleep(_POLL_S)

    def _here(self) -> dict[str, Any]:
        return {"job": str(self.place.job_id), "start": self.place.restarts}
