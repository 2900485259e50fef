"""What Slurm signals to a process of a job, and how that puts the job into the queue again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from cluster.errors import ClusterError
from cluster.slurm.place import SlurmTask
from cluster.slurm.queue import requeue_job

if TYPE_CHECKING:
    pass

REQUEUED = 255  # exit code of a process whose job submitit has put into the queue again


def discard_torn_files(task: SlurmTask) -> None:
    """Remove what submitit was writing when an earlier start of this job was killed: it would not write it again."""
    folder = os.environ.get("SUBMITIT_FOLDER")
    if folder is not None:
        names = [f"{task.rank}_result", "submitted"][: 2 if task.rank == 0 else 1]
        for name in names:
            Path(folder, f"{task.job_id}_{name}.pkl.save_tmp").unlink(missing_ok=True)


class JobSignals:
    """Notes what Slurm signals, instead of what submitit does at once, so that work can be ended in order first.

    Attributes:
        preempted: whether the job's time is nearly over, or its nodes are wanted: `requeue` when all is saved.
        preempted_at: when it was told so, by `time.monotonic`; None: it was not.
        cancelled: whether the job is being ended; there are some seconds left (KillWait, by default 30).
    """

    def __init__(self) -> None:
        self.preempted_at: float | None = None
        self.cancelled = False
        # The name is submitit's: it has the script ask for that signal
        self.preemption = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def preempted(self) -> bool:
        return self.preempted_at is not None

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, self.preemption):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requeue(self) -> None:
        """Put the job into the queue again: raises SystemExit if Slurm took it, and ClusterError if not."""
        from submitit.core.utils import UncompletedJobError

        handler = self._previous[self.preemption]
        if not callable(handler):
            raise ClusterError(f"stopped by {self.preemption.name}; nothing here puts the job into the queue again")
        # A requeue ends every process of the job, also the scontrol that asks for it and has not been answered yet
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            handler(self.preemption, None)
        except subprocess.SubprocessError:  # it asks once, and keeps the reason for itself
            requeue_job(os.environ["SLURM_JOB_ID"])
            sys.exit(REQUEUED)
        except (UncompletedJobError, OSError) as error:
            raise ClusterError(f"stopped by {self.preemption.name}: {error}") from error

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == self.preemption:
            self.preempted_at = self.preempted_at or time.monotonic()
        else:
            self.cancelled = True
