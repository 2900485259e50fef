"""A command as a job of Slurm, which starts again after what is no fault of the command.

    submit_job(RankCommand(("python", "train.py"), Path.cwd()), read_request("nodes=2,gpus_per_node=8,..."), ...)

    FOLDER/job.json             the last submission: number, request, command (cluster/jobs/submission.py)
    FOLDER/history.jsonl        what has happened (cluster/jobs/history.py)
    FOLDER/code/0a1b2c3d4e5f/   what runs (cluster/jobs/code_copy.py)
    FOLDER/1234_3_log.out       what process 3 printed in job 1234, all starts of it
    FOLDER/1234.2/rank-3.json   how process 3 ended in start 2 of job 1234 (cluster/jobs/verdict.py)

After a failure that was said in a line, `error: ...`, with exit code 1 or 2, nothing starts again: the next start would
fail as well. After a death, a hang, a lost node, a traceback or exit code 3 the job goes back into the queue, until
`max_failures` starts in a row, after the first, have saved nothing new.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.jobs.code_copy import CODE, copy_code, shell_lines
from cluster.jobs.command import JobCommand, shown
from cluster.jobs.history import History, is_cancelled
from cluster.jobs.process import JobProcess, Leader
from cluster.jobs.saves import newest_in
from cluster.jobs.submission import Submission, record_submission, submitting
from cluster.jobs.verdict import settle, settle_without_script
from cluster.launcher import whole_number
from cluster.slurm.place import SlurmTask
from cluster.slurm.queue import UNKNOWN, job_state, requeue_job, time_left_s
from cluster.slurm.request import SlurmRequest
from cluster.slurm.script import Launch, script, submit
from cluster.slurm.signals import REQUEUED, JobSignals, discard_torn_files
from untrusted.terminal import guarded

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

_SCRIPT = "RANK_JOB_SCRIPT"  # in the environment of the tasks: the number of the script's process
_ASKED_OFTEN, _AGAIN_S = 3, 2.0  # squeue, and so much in between
_EARLY_S = 90.0  # so much before its time a signal may come that tells of the end of the job's time


def submit_job(
    run: JobCommand,
    request: SlurmRequest,
    folder: Path,
    *,
    name: str,
    packages: Sequence[str],
    origin: dict[str, Any] | None = None,
    behind: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> Submission:
    """Put a job into the queue whose processes run a command.

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
            SlurmJob(run, folder, request.signal_delay_s, request.max_failures),
            request,
            folder,
            _launch(run, request, folder, code, name, behind),
        )
        return record_submission(job, run, request, folder, code)


def job_script(run: JobCommand, request: SlurmRequest, folder: Path, *, name: str, behind: Sequence[str] = ()) -> str:
    """The script that `submit_job` would give to sbatch. Needs no Slurm, and writes nothing."""
    folder = folder.expanduser().absolute()
    return script(request, folder, _launch(run, request, folder, folder / CODE / "DIGEST", name, behind))


def _launch(
    run: JobCommand, request: SlurmRequest, folder: Path, code: Path, name: str, behind: Sequence[str]
) -> Launch:
    settle = [sys.executable, "-m", "cluster.jobs.slurm_job", str(folder), str(request.max_failures)]
    settle += [] if run.saves is None else [f"--saves={run.saves}"]
    settle += ["--led"] if run.led else []
    return Launch(
        name=name,
        tasks_per_node=run.tasks_per_node(request),
        srun_args=run.srun_args,
        before=(
            f"# the command: {shown(run.command)}",
            *shell_lines(code),
            f"export {_SCRIPT}=$$  # rank 0 asks whether it lives",
            "trap : TERM  # when the job is cancelled, the last lines still say so",
        ),
        after=(
            "code=$?",
            *run.tidy,
            f"if [ $code -eq {REQUEUED} ]; then exit $code; fi  # back in the queue",
            "trap '' TERM  # which a requeue sends also to who asks for it",
            f"exec {shlex.join(settle)}",
        ),
        sbatch=run.sbatch,
        behind=tuple(behind),
    )


@dataclass(frozen=True)
class SlurmJob:
    """What every process of the job runs."""

    run: JobCommand
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
            rank = JobProcess(
                self.run, self.folder, place, signals, self.signal_delay_s, Leader(script, self._go_on_alone)
            )
            rank.work(lambda: _why_preempted(self.signal_delay_s), signals.requeue)

    def _go_on_alone(self) -> None:
        """Do what the script's last lines would: it was killed, and Slurm itself starts nothing again for that."""
        place, history = SlurmTask.from_env(), History(self.folder)
        job, newest = str(place.job_id), newest_in(self.run.saves)
        if settle_without_script(history, job, place.restarts, self.max_failures, newest, place.node).again:
            _start_again(history, job, place.restarts)


def _why_preempted(signal_delay_s: int) -> str:
    """The limit of time, or not: as far as Slurm says how much is left."""
    left = time_left_s(os.environ["SLURM_JOB_ID"])
    if left is None:
        return "time limit or preemption"
    return "time limit" if left < signal_delay_s + _EARLY_S else "preemption"


def _main(words: Sequence[str]) -> int:
    """The last lines of the script: what becomes of a job whose processes have ended. The job's exit code."""
    parser = ArgumentParser(prog="cluster.jobs.slurm_job")
    parser.add_argument("folder", type=Path)
    parser.add_argument("max_failures", type=int)
    parser.add_argument("--saves", type=Path)
    parser.add_argument("--led", action="store_true")
    told = parser.parse_args(words)
    job, start = os.environ["SLURM_JOB_ID"], whole_number("SLURM_RESTART_COUNT", "0")
    history, newest = History(told.folder), newest_in(told.saves)
    verdict = settle(history, job, start, told.max_failures, newest, is_ending=_is_ending(job), led=told.led)
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
        sys.exit(_main(sys.argv[1:]))
