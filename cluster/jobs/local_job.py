"""A job of ranks on this machine, behind the back of the shell that asked for it, where there is no Slurm.

    FOLDER/local.json         what it runs
    FOLDER/local.out          what the process says that starts the ranks, whose number is the job's
    all else                  as of a job of Slurm: cluster/jobs/slurm_job.py

It starts again what Slurm would, and hears the same signals: SIGTERM, save and end; SIGUSR2, save, and start again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from cluster import children
from cluster.errors import ClusterUsageError
from cluster.jobs.code_copy import CODE, copy_code
from cluster.jobs.command import RankCommand
from cluster.jobs.history import History
from cluster.jobs.process import JobProcess, Leader
from cluster.jobs.saves import newest_in
from cluster.jobs.submission import Submission, record_submission, submitting
from cluster.jobs.verdict import settle
from cluster.slurm.place import SlurmTask
from cluster.slurm.request import SlurmRequest
from cluster.slurm.signals import REQUEUED, JobSignals
from untrusted.json_data import read_json
from untrusted.terminal import guarded
from untrusted.typed import checked

_SPEC, _LOG = "local.json", "local.out"
_MODULE = "cluster.jobs.local_job"
_NODE = "localhost"
_GO = b"go"
_POLL_S = 0.1
_LOOK_S = 1.0
_OTHERS_S = 30.0  # ranks that are left when one has failed have so long to notice


@dataclass(frozen=True)
class LocalJob:
    """What the process of a job needs to know.

    Attributes:
        command, cwd, saves, stacks: see `RankCommand`.
        ranks: how many.
        gpus: whether they may see this machine's.
        max_failures: see `SlurmRequest`.
        behind: folders of jobs that must have finished before.
    """

    command: list[str]
    cwd: str
    saves: str | None
    stacks: str | None
    ranks: int
    gpus: bool
    max_failures: int
    behind: list[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From its file. Raises UnreadableError, or OSError."""
        return checked(read_json(folder / _SPEC), cls, str(folder / _SPEC))

    def write(self, folder: Path) -> None:
        """Into its file."""
        (folder / _SPEC).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @property
    def run(self) -> RankCommand:
        """What its ranks run."""
        saves, stacks = (None if place is None else Path(place) for place in (self.saves, self.stacks))
        return RankCommand(tuple(self.command), Path(self.cwd), saves, stacks)


def submit_local(
    run: RankCommand,
    request: SlurmRequest,
    folder: Path,
    *,
    packages: Sequence[str],
    origin: dict[str, Any] | None = None,
    behind: Sequence[Path] = (),
    notes: Mapping[str, str] | None = None,
) -> Submission:
    """Start a job here; it goes on when this process has ended. See `cluster.jobs.slurm_job.submit_job`.

    Args:
        behind: folders of jobs that must have finished before.
        notes: as of `submit_job`.

    Raises:
        ClusterUsageError: more than one node, or the folder's last job is still running.
    """
    if request.nodes != 1:
        raise ClusterUsageError(
            f"nodes={request.nodes}: a local job is on this machine alone; tasks_per_node=N has N ranks"
        )
    folder = folder.expanduser().absolute()
    with submitting(folder):
        for note, text in (notes or {}).items():
            (folder / note).write_text(text, "utf-8")
        code = copy_code(packages, folder / CODE, origin)
        _spec(run, request, behind).write(folder)
        job = _start_supervisor(folder, code)
        with _ended_if_refused(job):
            submission = record_submission(str(job.pid), run, request, folder, code, local=True)
    assert job.stdin is not None
    with suppress(BrokenPipeError), job.stdin:
        job.stdin.write(_GO)
    return submission


def _spec(run: RankCommand, request: SlurmRequest, behind: Sequence[Path]) -> LocalJob:
    return LocalJob(
        command=list(run.command),
        cwd=str(run.cwd),
        saves=None if run.saves is None else str(run.saves),
        stacks=None if run.stacks is None else str(run.stacks),
        ranks=request.tasks,
        gpus=request.gpus_per_node > 0,
        max_failures=request.max_failures,
        behind=[str(each) for each in behind],
    )


def _start_supervisor(folder: Path, code: Path) -> subprocess.Popen[bytes]:
    """It begins when it has read a word."""
    python_path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    with (folder / _LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(folder)],
            env={**os.environ, "PYTHONPATH": python_path, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a closed terminal, or Ctrl-C in it, is none of its business
        )


@contextmanager
def _ended_if_refused(job: subprocess.Popen[bytes]) -> Iterator[None]:
    """A job that nobody has noted, because the disk is full, must not wait for its word."""
    try:
        yield
    except BaseException:
        job.kill()  # it has begun nothing
        job.communicate()
        raise


class _Supervisor:
    """The job's own process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = LocalJob.read(folder)
        self.history = History(folder)
        self.job = os.getpid()
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._cancelled = self._finished = False
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._pass_on)

    def work(self) -> int:
        """Until the command has finished, or is not to be started again. The exit code."""
        if sys.stdin.buffer.read() != _GO:  # whoever submitted it has died before that was written down
            return 1
        children.adopt_orphans()
        if not self._wait_for_others():
            return 1
        start = 0
        while not self._cancelled and self._start(start):
            start += 1
        if self._cancelled and start == 0 and self.history.read()[-1].event in ("submitted", "cancelled"):
            self.history.add("stopped", job=str(self.job), start=0, reason="cancelled")
        children.kill_all()
        return 0 if self._finished else 1

    def _start(self, start: int) -> bool:
        """Run all ranks to their end; whether there is another start."""
        for rank in range(self.spec.ranks):
            self._ranks.append(self._rank(rank, start))
        if self._cancelled:  # a signal that came while they were being started
            self._tell(signal.SIGTERM)
        failed_at: float | None = None
        while None in [rank.poll() for rank in self._ranks]:  # each of them: poll() also notes an exit code
            if failed_at is None and any(rank.returncode for rank in self._ranks):
                failed_at = time.monotonic()
                self._tell(signal.SIGTERM)
            if failed_at is not None and time.monotonic() - failed_at > _OTHERS_S:
                self._tell(signal.SIGKILL)
            time.sleep(_POLL_S)
        codes = [rank.returncode for rank in self._ranks]
        self._ranks.clear()
        if REQUEUED in codes and not self._cancelled:
            return True
        newest = newest_in(self.spec.run.saves)
        verdict = settle(self.history, str(self.job), start, self.spec.max_failures, newest, is_ending=self._cancelled)
        print(f"{verdict.event}: {verdict.reason}" if verdict.reason else verdict.event, flush=True)
        if verdict.event == "lost":
            self.history.add("stopped", job=str(self.job), start=start, reason="told to end")
        self._finished = verdict.event == "finished"
        return verdict.again and not self._cancelled

    def _rank(self, rank: int, start: int) -> subprocess.Popen[bytes]:
        env = dict(os.environ) if self.spec.gpus else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", _MODULE, str(self.folder), str(self.job), str(rank), str(start)]
        with (self.folder / f"{self.job}_{rank}_log.out").open("ab") as log:
            return children.start(command, env=env, stdout=log)

    def _wait_for_others(self) -> bool:
        for folder in map(Path, self.spec.behind):
            while True:
                submission = Submission.read(folder)
                is_alive = submission is not None and submission.is_alive()
                events = History(folder).read()  # afterwards: its last word may come just before its end
                if events and events[-1].event == "finished":
                    break
                if self._cancelled or not is_alive:
                    reason = "cancelled" if self._cancelled else f"{folder}, which comes before, has not finished"
                    self.history.add("stopped", job=str(self.job), start=0, reason=reason)
                    return False
                time.sleep(_LOOK_S)
        return True

    def _pass_on(self, number: int, frame: object) -> None:
        self._cancelled = self._cancelled or number == signal.SIGTERM
        self._tell(signal.Signals(number))

    def _tell(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            if rank.poll() is None:
                rank.send_signal(number)


def _be_rank(folder: Path, job: int, rank: int, start: int) -> None:
    spec = LocalJob.read(folder)
    cores = len(os.sched_getaffinity(0))
    place = SlurmTask(job, start, rank, spec.ranks, rank, (_NODE,), _NODE, max(1, cores // spec.ranks), 0)
    with JobSignals() as signals:
        leader = Leader(job, lambda: _say_that_it_was_killed(History(folder), job, start))
        JobProcess(spec.run, folder, place, signals, None, leader).work(lambda: "asked to by SIGUSR2", _requeue)


def _say_that_it_was_killed(history: History, job: int, start: int) -> None:
    """Nobody is left who could start the job again."""
    history.add("stopped", job=str(job), start=start, reason=f"its process {job} was killed; launch it again")


def _requeue() -> NoReturn:
    sys.exit(REQUEUED)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        with guarded():  # a log on a full disk must not decide what becomes of the job
            sys.exit(_Supervisor(Path(sys.argv[1])).work())
    _be_rank(Path(sys.argv[1]), *map(int, sys.argv[2:]))
