"""Commands of `spider` as jobs, on Slurm or on this machine: where they run, and how they are submitted.

FOLDER/...    cluster/jobs/slurm_job.py; the folder is RUN/slurm, OUT/slurm, or PIPELINE/stages/NAME
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.jobs.command import JobCommand, RankCommand
from cluster.jobs.local_job import submit_local
from cluster.jobs.slurm_job import job_script, submit_job
from cluster.jobs.submission import Submission
from cluster.slurm.request import SlurmRequest, read_request
from spider.errors import SpiderUsageError
from spider.runs.provenance import git_state

PACKAGES = ("cluster", "neighbors", "untrusted", "shards", "spider", "sweeps")
FOLDER = "slurm"  # of a run, for its jobs
LOCAL = "local"

_ENOUGH_MIN = 60 * 24 * 365  # the time of a local job, which nobody limits


@dataclass(frozen=True)
class Place:
    """Where jobs run.

    Attributes:
        request: nodes, ranks, time, and what else Slurm is asked.
        local: on this machine, without Slurm.
    """

    request: SlurmRequest
    local: bool

    @property
    def ranks(self) -> int:
        """All together."""
        return self.request.nodes * self.request.tasks


def read_place(text: str) -> Place:
    """`KEY=VALUE,KEY=VALUE` or a YAML file, for Slurm; `local` or `local,KEY=VALUE`, for this machine.

    Raises ClusterUsageError: one line with the key, the value found and what would be valid.
    """
    first, _, rest = text.partition(",")
    if first != LOCAL:
        if LOCAL in text.split(","):
            raise SpiderUsageError(f"slurm: {text}: local comes first")
        return Place(read_request(text), local=False)
    text = rest if "time=" in rest else ",".join(filter(None, [f"time={_ENOUGH_MIN}", rest]))
    request = read_request(text)
    place = Place(request, local=True)
    require_here(place)
    return place


def require_here(place: Place, where: str = "") -> None:
    """Refuse a local job on several nodes. `where` begins the error."""
    if place.local and (nodes := place.request.nodes) != 1:
        raise SpiderUsageError(f"{where}nodes={nodes}: a local job is on this machine; tasks_per_node=N has N ranks")


def submit_command(
    command: JobCommand,
    place: Place,
    folder: Path,
    *,
    name: str,
    behind: Sequence[tuple[Path, Submission]] = (),
    notes: Mapping[str, str] | None = None,
    more_code: Sequence[str] = (),
) -> Submission:
    """Put a command into the queue, or start it here, behind other jobs, each given with its folder.

    Args:
        notes: files that are written into the folder first, by name.
        more_code: top-level packages and modules that are copied for the job, beside those of this project.
    """
    origin, packages = git_state(), (*PACKAGES, *more_code)
    if place.local:
        assert isinstance(command, RankCommand)
        folders = [before for before, _ in behind]
        return submit_local(
            command, place.request, folder, packages=packages, origin=origin, behind=folders, notes=notes
        )
    jobs = [submission.job for _, submission in behind]
    return submit_job(
        command, place.request, folder, name=name, packages=packages, origin=origin, behind=jobs, notes=notes
    )


def command_script(command: JobCommand, place: Place, folder: Path, *, name: str) -> str:
    """What sbatch would be given. Writes nothing, and needs no Slurm. Raises SpiderUsageError for a local job."""
    if place.local:
        raise SpiderUsageError("--dry-run: a local job has no script")
    return job_script(command, place.request, folder, name=name)
