"""The script that asks Slurm for a job, and its submission.

    FOLDER/7_submission.sh    what sbatch was given, for job 7
    FOLDER/7_submitted.pkl    what its processes run (written and read by submitit)
    FOLDER/7_0_log.out        output and errors of process 0

A script can be written where there is no Slurm. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError, ClusterUsageError
from cluster.slurm.request import SlurmRequest

if TYPE_CHECKING:
    from submitit.slurm.slurm import SlurmExecutor


@dataclass(frozen=True)
class Launch:
    """How a job's script starts its processes.

    Attributes:
        name: of the job, if the request has none.
        tasks_per_node: processes on every node.
        srun_args: for the srun that starts them.
        before: shell lines on the first node, after those of the request.
        after: shell lines when all processes have ended; the job's exit code is the last one's.
        sbatch: parameters that the kind of job needs.
        behind: numbers of jobs that must have ended well before this one starts.
    """

    name: str
    tasks_per_node: int
    srun_args: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    sbatch: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


# What sbatch says where no Slurm answers, and not of the request
_NO_CLUSTER = ("Could not establish a configuration source", "Unable to contact slurm controller")


def script(request: SlurmRequest, folder: Path, launch: Launch) -> str:
    """The text that `submit` would give to sbatch."""
    executor = _executor(request, folder, launch)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submit(task: Callable[[], object], request: SlurmRequest, folder: Path, launch: Launch) -> str:
    """Put a job into the queue.

    Args:
        task: what each of its processes calls; found again by its import path, on code as it is then. If it has a
            method `checkpoint` that returns a submitit DelayedSubmission, the job is put into the queue again when it
            is preempted or its time is over.
        request: what it needs.
        folder: where its files go; on a file system that the nodes share.
        launch: how its processes are started.

    Returns:
        The job's number.

    Raises:
        ClusterUsageError: there is no Slurm here.
        ClusterError: Slurm refuses, with its reason.
    """
    import submitit
    from submitit.core.utils import FailedJobError, environment_variables

    if shutil.which("sbatch") is None:
        raise ClusterUsageError(
            "there is no sbatch on the PATH: jobs are submitted from a login node of a Slurm cluster"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Within a job they are what Slurm has told that one; elsewhere SBATCH_ACCOUNT and such are somebody's wishes
    wishes = () if "SLURM_JOB_ID" in os.environ else tuple(name for name in os.environ if name.startswith("SBATCH_"))
    conf = {name: os.environ[name] for name in ("SLURM_CONF", *wishes) if name in os.environ}
    try:
        # From within a job, its own variables would be taken for options of the new one; where Slurm is stays true
        with submitit.helpers.clean_env(), environment_variables(**conf), contextlib.redirect_stderr(io.StringIO()):
            return _executor(request, folder, launch).submit(task).job_id
    except FailedJobError as error:
        reason = str(error).strip().splitlines() or ["it did not say why"]
        line = f"sbatch refuses the job: {reason[-1].removeprefix('sbatch: ')}"
        if any(words in line for words in _NO_CLUSTER):
            line += "; this machine belongs to no Slurm cluster that answers: ask on a login node, or --slurm local"
        raise ClusterError(line) from None
    finally:
        # Names without a job's number: what was not submitted, and links to what was
        for left in [*folder.glob(".submission_file_*.sh"), *folder.glob("?" * 32 + ".pkl")]:
            left.unlink(missing_ok=True)


def _executor(request: SlurmRequest, folder: Path, launch: Launch) -> SlurmExecutor:
    if 60 * request.time_min <= request.signal_delay_s:
        raise ClusterUsageError(
            f"slurm: time: {request.time_min} min are no longer than signal_delay_s={request.signal_delay_s}, "
            "the time before a job's end at which it is told to save"
        )
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # available, also for writing a script where there is no srun

    executor = Executor(folder, max_num_timeout=request.max_timeouts)
    executor.update_parameters(**_parameters(request, launch))
    return executor


def _parameters(request: SlurmRequest, launch: Launch) -> dict[str, Any]:
    """The request in the words of submitit's SlurmExecutor."""
    setup = [*request.setup]
    if request.cpus_per_task is not None:
        setup.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")  # srun of Slurm 22.05 to 23.02 forgets it
    return {
        "job_name": request.job_name or launch.name,
        "time": request.time_min,
        "nodes": request.nodes,
        "ntasks_per_node": launch.tasks_per_node,
        "gpus_per_node": request.gpus_per_node or None,
        "cpus_per_task": request.cpus_per_task,
        "mem": None if request.mem_gb is None else f"{round(request.mem_gb * 1024)}M",
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "exclusive": request.exclusive or None,
        "signal_delay_s": request.signal_delay_s,
        "setup": [*setup, *launch.before],
        "teardown": [*launch.after],
        "srun_args": [*launch.srun_args],
        "stderr_to_stdout": True,
        "dependency": f"afterok:{':'.join(launch.behind)}" if launch.behind else None,
        "additional_parameters": {
            "requeue": True,  # whatever the cluster's default is
            **({"kill-on-invalid-dep": "yes"} if launch.behind else {}),
            **dict.fromkeys(launch.sbatch, True),
            **{name: True if value == "true" else value for name, value in request.extra.items()},
        },
    }
