"""The last job that was submitted for a folder: its note, whether it lives, how it is asked to end.

FOLDER/job.json    number, request, command: `Submission`
FOLDER/.lock       taken while a job is submitted, so that of several who submit at once one does
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from cluster.errors import ClusterError, ClusterUsageError
from cluster.jobs.command import JobCommand
from cluster.jobs.history import History
from cluster.lock import in_turn_or_gone
from cluster.process import birth
from cluster.slurm.queue import UNKNOWN, end_job, job_state
from cluster.slurm.request import SlurmRequest
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

JOB = "job.json"

_SUBMITTING_S = 120.0  # a file system may be slow, and sbatch too


@dataclass(frozen=True)
class Submission:
    """What stands in job.json.

    Attributes:
        job: its number.
        nodes, tasks_per_node: how many ranks it has, and where.
        command: what they run.
        code: the copy of the code that they run.
        request: as it was made.
        local: whether the job is a process of `host`, with the job's number, and Slurm knows nothing of it.
        host: where it was submitted.
        born: of a local job, what tells its process from a later one of the same number (cluster/process.py).
        saves: where the command saves, see `JobCommand`; None: nothing is saved, or an older version wrote the file.
    """

    job: Annotated[str, Field(pattern=r"^[0-9A-Za-z][\w.+-]{0,63}$")]  # it names files
    nodes: int
    tasks_per_node: int
    command: list[str]
    code: str
    request: dict[str, Any]
    local: bool = False
    host: str = ""
    born: str | None = None
    saves: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The last one of a folder; None if there was none. Raises ClusterError for a file that is damaged."""
        try:
            return checked(read_json(folder / JOB), cls, str(folder / JOB))
        except FileNotFoundError:
            return None
        except UnreadableError as error:
            raise ClusterError(f"{error}; remove the file once its job is over") from None

    def write(self, folder: Path) -> None:
        """Replace it."""
        beside = folder / f".{JOB}"
        with beside.open("w") as file:
            file.write(json.dumps(asdict(self), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / JOB)

    def log(self, folder: Path, rank: int) -> Path:
        """What a rank prints."""
        return folder / f"{self.job}_{rank}_log.out"

    @property
    def seen_from(self) -> str:
        """Where it can be known whether the job waits or runs."""
        return f"on {self.host}" if self.local else "where squeue answers"

    def is_alive(self) -> bool | None:
        """Whether the job waits or runs; None if it cannot be known from here."""
        if not self.local:
            state = job_state(self.job)
            return None if state == UNKNOWN else state is not None
        if self.host != socket.gethostname():
            return None
        return self.born is not None and self.job.isdecimal() and birth(int(self.job)) == self.born


@contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Submit a job for `folder` within, alone. If it is refused, nothing is left of a folder that this call made.

    Raises ClusterUsageError if the folder's last job has not ended, or may not have; or if another submission lasts.
    """
    with in_turn_or_gone(folder, _SUBMITTING_S, ClusterError, (folder / JOB).exists):
        _require_free(folder)
        yield


def _require_free(folder: Path) -> None:
    last = Submission.read(folder)
    alive = last is not None and last.is_alive()
    if last is not None and alive is None:
        raise ClusterUsageError(f"{folder}: whether its job {last.job} has ended can only be seen {last.seen_from}")
    if last is not None and alive:
        raise ClusterUsageError(f"{folder}: its job {last.job} is still in the queue or running")


def record_submission(
    job: str, run: JobCommand, request: SlurmRequest, folder: Path, code: Path, *, local: bool = False
) -> Submission:
    """Note that a job was submitted, `local`: as the process of this machine with that number."""
    told, tasks = request.model_dump(mode="json", exclude_defaults=True), run.tasks_per_node(request)
    made = Submission(
        job=job,
        nodes=request.nodes,
        tasks_per_node=tasks,
        command=list(run.command),
        code=str(code),
        request=told,
        local=local,
        host=socket.gethostname(),
        born=birth(int(job)) if local else None,
        saves=None if run.saves is None else str(run.saves),
    )
    made.write(folder)
    History(folder).add("submitted", job=job, nodes=request.nodes, ranks=request.nodes * tasks)
    return made


def cancel(folder: Path) -> str | None:
    """Ask the folder's job to save and end; one that waits for nodes goes out of the queue.

    Returns:
        The job's number; None if there is none that waits or runs.

    Raises:
        ClusterError: Slurm refuses, with its reason.
    """
    last = Submission.read(folder)
    alive = last is not None and last.is_alive()
    if last is None or alive is False:
        return None
    if alive is None:
        raise ClusterError(f"{folder}: whether its job {last.job} runs can only be seen {last.seen_from}")
    history = History(folder)
    start = next((event["start"] for event in reversed(history.read()) if event.event == "started"), 0)
    history.add("cancelled", job=last.job, start=start)  # before the job can end of it
    try:
        if last.local:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(int(last.job), signal.SIGTERM)
        else:
            end_job(last.job)
    except ClusterError as error:
        history.add("not cancelled", job=last.job, start=start, reason=str(error))
        raise
    return last.job
