"""Ranks that run one command on the nodes of a Slurm job, and start again after what is no fault of theirs.

    submit_ranks(RankCommand(("python", "train.py"), Path.cwd()), read_request("nodes=2,gpus_per_node=8,..."), ...)

    FOLDER/job.json             the last submission: number, request, command (cluster/submission.py)
    FOLDER/history.jsonl        what has happened (cluster/history.py)
    FOLDER/code/0a1b2c3d4e5f/   what runs (cluster/code_copy.py)
    FOLDER/1234_3_log.out       what rank 3 printed in job 1234, all starts of it
    FOLDER/1234.2/rank-3.json   how rank 3 ended in start 2 of job 1234 (cluster/verdict.py)

One process of the job is one rank. It tells its child, the command, who it is (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT), and hears Slurm's signals, which reach every process of a job:

    USR2   time is nearly over, or nodes are wanted   the command is asked to save and end (SIGTERM, exit code 130);
                                                      then rank 0 puts the job back into the queue
    TERM   the job is cancelled, requeued, preempted  the command saves and ends
    TERM   the job's script was killed                the same; and rank 0 puts the job back into the queue at once
    none   a rank dies, or ends badly                 the others end, and the script's last lines decide (`_main`)

The command must go on by itself from what is on the disk: what is told to a start is the same for each.
After a failure that was said in a line, `error: ...`, with exit code 1 or 2, nothing starts again: the next start would
fail as well. After a death, a hang, a lost node, a traceback or exit code 3 the job goes back into the queue, until
`max_failures` starts in a row, after the first, have saved nothing new.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import children
from cluster.code_copy import copy_code, shell_lines
from cluster.errors import ClusterError
from cluster.history import History, is_cancelled
from cluster.launcher import whole_number
from cluster.manifest import checkpoint_names
from cluster.process import birth
from cluster.slurm import (
    REQUEUED,
    UNKNOWN,
    JobSignals,
    Launch,
    SlurmRequest,
    SlurmTask,
    discard_torn_files,
    ip_towards,
    job_state,
    network_interface,
    port_of,
    requeue_job,
    script,
    submit,
    time_left_s,
)
from cluster.submission import Submission, record_submission, submitting
from cluster.verdict import Ending, read_endings, settle, settle_without_script, start_folder
from cluster.watchdog import hung_at, stacks_file, waits_for_others
from untrusted.terminal import guarded

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

CODE = "code"
_SCRIPT = "RANK_JOB_SCRIPT"  # in the environment of the tasks: the number of the script's process

_ERROR_LINE = re.compile(r"error( \(rank \d+\))?: (?P<text>.*)")
_POLL_S = 0.1
_REQUEUE_S = 25.0  # of the time before a job's end, for the requeue; what has not saved by then is killed
_OTHERS_S = 10.0  # for the files of other ranks to be seen here
_ASKED_OFTEN, _AGAIN_S = 3, 2.0  # squeue, and so much in between
_EARLY_S = 90.0  # so much before its time a signal may come that tells of the end of the job's time


@dataclass(frozen=True)
class RankCommand:
    """What the ranks run.

    Attributes:
        command: program and arguments.
        cwd: the folder that the places in them are relative to.
        saves: a folder in which each save is an entry whose name sorts after those before; None: nothing is saved.
        stacks: a folder in which a rank that hangs leaves its stacks, `rank-0.txt`.
    """

    command: tuple[str, ...]
    cwd: Path
    saves: Path | None = None
    stacks: Path | None = None


def submit_ranks(
    run: RankCommand,
    request: SlurmRequest,
    folder: Path,
    *,
    name: str,
    packages: Sequence[str],
    origin: dict[str, Any] | None = None,
    behind: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> Submission:
    """Put a job into the queue whose ranks run a command.

    Args:
        run: the command.
        request: nodes, ranks and GPUs of each, time.
        folder: for all that the module names; shared by the nodes, and by no other job.
        name: of the job, if the request has none.
        packages: what is copied, so that every start runs the code of now.
        origin: what is known of where that comes from.
        behind: numbers of jobs that must have ended well before.
        notes: files that are written into the folder first, by name, such as one that the command reads.

    Raises:
        ClusterUsageError: there is no Slurm here, or the folder's last job is still in its queue.
        ClusterError: Slurm refuses, with its reason.
    """
    folder = folder.expanduser().absolute()
    with submitting(folder):
        for note, text in (notes or {}).items():
            (folder / note).write_text(text, "utf-8")
        code = copy_code(packages, folder / CODE, origin)
        job = submit(
            RankJob(run, folder, request.signal_delay_s, request.max_failures),
            request,
            folder,
            _launch(run, request, folder, code, name, behind),
        )
        return record_submission(job, run.command, request, folder, code)


def ranks_script(
    run: RankCommand, request: SlurmRequest, folder: Path, *, name: str, behind: Sequence[str] = ()
) -> str:
    """The script that `submit_ranks` would give to sbatch. Needs no Slurm, and writes nothing."""
    folder = folder.expanduser().absolute()
    return script(request, folder, _launch(run, request, folder, folder / CODE / "DIGEST", name, behind))


def _launch(
    run: RankCommand, request: SlurmRequest, folder: Path, code: Path, name: str, behind: Sequence[str]
) -> Launch:
    saves = [] if run.saves is None else [str(run.saves)]
    settle = shlex.join([sys.executable, "-m", "cluster.rank_job", str(folder), str(request.max_failures), *saves])
    return Launch(
        name=name,
        tasks_per_node=request.tasks,
        # Where one rank has ended badly, the others wait for it in vain
        srun_args=("--kill-on-bad-exit=1",),
        before=(
            f"# the command: {' '.join(shlex.join(run.command).splitlines())}",  # for who reads; a break would run it
            *shell_lines(code),
            f"export {_SCRIPT}=$$  # rank 0 asks whether it lives",
            "trap : TERM  # when the job is cancelled, the last lines still say so",
        ),
        after=(
            "code=$?",
            f"if [ $code -eq {REQUEUED} ]; then exit $code; fi  # back in the queue",
            "trap '' TERM  # which a requeue sends also to who asks for it",
            f"exec {settle}",
        ),
        behind=tuple(behind),
    )


@dataclass(frozen=True)
class RankJob:
    """What every process of the job runs."""

    run: RankCommand
    folder: Path
    signal_delay_s: int
    max_failures: int

    def checkpoint(self) -> DelayedSubmission:
        """What the job runs after a requeue: the same, since what is there already is found on disk."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Ends with SystemExit unless the command ended well."""
        place = SlurmTask.from_env()
        discard_torn_files(place)
        with JobSignals() as signals:
            script = whole_number(_SCRIPT, "0")
            rank = Rank(self.run, self.folder, place, signals, self.signal_delay_s, Leader(script, self._go_on_alone))
            rank.work(lambda: _why_preempted(self.signal_delay_s), signals.requeue)

    def _go_on_alone(self) -> None:
        """Do what the script's last lines would: it was killed, and Slurm itself starts nothing again for that."""
        place, history = SlurmTask.from_env(), History(self.folder)
        job, newest = str(place.job_id), newest_in(self.run.saves)
        if settle_without_script(history, job, place.restarts, self.max_failures, newest, place.node).again:
            _start_again(history, job, place.restarts)


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


class Rank:
    """One rank of one start of a job."""

    def __init__(
        self,
        run: RankCommand,
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
            self.run.command,
            env=rank_env(self.place),
            stdout=subprocess.PIPE,
            cwd=self.run.cwd,
            deaf_to=[signal.SIGUSR2],
        )
        output.follow(command)
        asked = unsaved = False
        while command.poll() is None:
            if not asked and (self.signals.preempted or self.signals.cancelled):
                command.terminate()
                asked = True
                self._stand_in_for_leader()
            if not unsaved and self._is_too_late():
                command.kill()
                unsaved = True
            time.sleep(_POLL_S)
        told, error = _error(output.last_lines(), command.returncode)
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
        if ending.preempted or ending.cancelled:
            return ending.preempted
        deadline = time.monotonic() + _OTHERS_S
        while True:
            endings = read_endings(self.folder, self.place.job_id, self.place.restarts)
            if len(endings) == self.place.size or time.monotonic() > deadline:
                return any(ending.preempted for ending in endings)
            time.sleep(_POLL_S)

    def _here(self) -> dict[str, Any]:
        return {"job": str(self.place.job_id), "start": self.place.restarts}


def rank_env(place: SlurmTask) -> dict[str, str]:
    """What tells torch.distributed of a rank, beside all that this process was told."""
    env = dict(os.environ)
    env.setdefault("OMP_NUM_THREADS", str(place.cpus))
    if place.size == 1:
        return {**env, "PYTHONUNBUFFERED": "1"}
    if len(place.nodes) > 1 and (interface := _interface(place)) is not None:
        env.setdefault("GLOO_SOCKET_IFNAME", interface)
    return {
        **env,
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.size // len(place.nodes)),
        "MASTER_ADDR": place.nodes[0],
        "MASTER_PORT": str(port_of(place.job_id, place.restarts)),
        "PYTHONUNBUFFERED": "1",
    }


def _interface(place: SlurmTask) -> str | None:
    """On which gloo shall listen where this node's name says 127.0.1.1, as Debian's do: others would not find it."""
    with suppress(OSError, ClusterError):
        if socket.gethostbyname(socket.gethostname()).startswith("127."):
            return network_interface(ip_towards(next(node for node in place.nodes if node != place.node)))
    return None


def newest_in(saves: Path | None) -> str | None:
    """The name of the newest checkpoint in a folder of them."""
    names = [] if saves is None else checkpoint_names(saves)
    return names[-1] if names else None


def _error(lines: Sequence[str], code: int) -> tuple[bool, str]:
    """The last error that a command told, and whether it did; else its last line, or the signal that ended it."""
    for line in reversed(lines):
        if told := _ERROR_LINE.fullmatch(line.strip()):
            return True, told["text"]
    if code < 0:
        return False, f"killed by {signal.Signals(-code).name}"
    return False, next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")


def _why_preempted(signal_delay_s: int) -> str:
    """The limit of time, or not: as far as Slurm says how much is left."""
    left = time_left_s(os.environ["SLURM_JOB_ID"])
    if left is None:
        return "time limit or preemption"
    return "time limit" if left < signal_delay_s + _EARLY_S else "preemption"


def _main(folder: str, max_failures: str, saves: str | None = None) -> int:
    """The last lines of the script: what becomes of a job whose ranks have ended. The job's exit code."""
    job, start = os.environ["SLURM_JOB_ID"], whole_number("SLURM_RESTART_COUNT", "0")
    history = History(Path(folder))
    newest = newest_in(None if saves is None else Path(saves))
    verdict = settle(history, job, start, int(max_failures), newest, is_ending=_is_ending(job))
    print(f"{verdict.event}: {verdict.reason}" if verdict.reason else verdict.event, flush=True)
    if verdict.again and not is_cancelled(history.read(), job) and _start_again(history, job, start):
        return REQUEUED
    return 0 if verdict.event == "finished" else 1


def _start_again(history: History, job: str, start: int) -> bool:
    """Put the job back into the queue; whether Slurm does that. If not, the history has its reason."""
    try:
        requeue_job(job)
    except ClusterError as error:
        history.add("stopped", job=job, start=start, reason=f"not started again: {error}")
        return False
    return True


def _is_ending(job: str) -> bool:
    """Whether Slurm ends the job. Where it does not answer for a while, it probably has other worries."""
    for _ in range(_ASKED_OFTEN):
        state = job_state(job)
        if state != UNKNOWN:
            return state is None or state[0] != "RUNNING"
        time.sleep(_AGAIN_S)
    return False


if __name__ == "__main__":
    with guarded():  # a log on a full disk must not decide what becomes of the job
        sys.exit(_main(*sys.argv[1:]))
