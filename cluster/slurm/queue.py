"""What Slurm says of a job, and what is asked of it: squeue, scontrol, scancel."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

from cluster.errors import ClusterError

_ANSWER_S = 15.0  # squeue itself would try for a minute
_ASIDE_S = 5.0
_PATIENCE_S, _AGAIN_S = 120.0, 2.0
_RESUMES = 8  # times _AGAIN_S
_NO_ANSWER = re.compile("timed out|contact|connect|communicat|temporar|try again|Zero Bytes", re.IGNORECASE)
SUSPENDED = ("SUSPENDED", "STOPPED")  # the second keeps its cores
UNKNOWN = ("UNKNOWN", "squeue does not answer here")


def job_state(job: str) -> tuple[str, str] | None:
    """The state of a job that waits or runs, and its nodes, or why it waits.

    None: Slurm knows of none. `UNKNOWN`: it was not to be asked.
    """
    if shutil.which("squeue") is None:
        return UNKNOWN
    command = ["squeue", "--noheader", "--jobs", job, "--format=%T|%R"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        return UNKNOWN
    if asked.returncode != 0 and "Invalid job id" not in asked.stderr:
        return UNKNOWN
    if asked.returncode != 0 or not asked.stdout.strip():
        return None
    state, _, where = asked.stdout.strip().splitlines()[0].partition("|")
    return state, where.strip("()")


def time_left_s(job: str) -> float | None:
    """Of a running job, as far as Slurm says, which has little time for that: whoever asks will have to requeue."""
    command = ["squeue", "--noheader", "--jobs", job, "--format=%L"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ASIDE_S)
        days, _, clock = asked.stdout.strip().rpartition("-")
        seconds = 0.0
        for part in clock.split(":"):
            seconds = 60 * seconds + int(part)
        return seconds + 86400 * int(days or 0)
    except (ValueError, OSError, subprocess.TimeoutExpired):  # UNLIMITED, or no answer
        return None


def requeue_job(job: str) -> None:
    """Put a running job into the queue again; ask again, for two minutes, where Slurm does not answer.

    Raises ClusterError if it refuses, with its reason.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            asked = subprocess.run(
                ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=_PATIENCE_S / 2
            )
        except subprocess.TimeoutExpired:
            refused = "scontrol does not answer"
        else:
            if asked.returncode == 0 or "Job is pending" in asked.stderr:  # Slurm itself was faster, or it was asked
                return
            refused = asked.stderr.strip()
            if not _NO_ANSWER.search(refused):
                raise ClusterError(refused)
        if time.monotonic() > until:
            raise ClusterError(refused)
        time.sleep(_AGAIN_S)


def end_job(job: str) -> None:
    """Ask all processes of a job to end, without a limit of time; one that does not run yet leaves the queue.

    Raises ClusterError if Slurm refuses, with its reason.
    """
    state = job_state(job)
    if state is not None and state[0] in SUSPENDED:  # it hears no signal, and an scancel would kill it unsaved
        resumed = subprocess.run(["scontrol", "resume", job], capture_output=True, text=True, check=False)
        if resumed.returncode != 0:
            raise ClusterError(
                f"job {job} is suspended, and cannot save before it is resumed: {resumed.stderr.strip()}; "
                f"scancel {job} ends it without saving"
            )
        _end_resumed(job)
        return
    # An scancel without a signal would kill them half a minute later, in the middle of a large save
    _signal(job, *(["--signal=TERM"] if state is not None and state[0] == "RUNNING" else []))


def _end_resumed(job: str) -> None:
    """Ask until it must have been heard: nodes learn of a resume after Slurm says so, and drop signals until then.

    Whoever has heard it hears no more of the same.
    """
    for _ in range(_RESUMES):
        try:
            _signal(job, "--signal=TERM")
        except ClusterError:
            if job_state(job) is not None:
                raise
        time.sleep(_AGAIN_S)
        if (state := job_state(job)) is None or state[0] != "RUNNING":
            return


def _signal(job: str, *options: str) -> None:
    asked = subprocess.run(["scancel", *options, job], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise ClusterError(f"scancel {job}: {asked.stderr.strip()}")
