"""Slurm: what is asked of it, the script that asks, and what a process of a job knows about its place.

    nodes=2,gpus_per_node=8,partition=gpu,time=2:00:00        a request in one line, or the same keys in a YAML file
    FOLDER/7_submission.sh                                    what sbatch was given, for job 7
    FOLDER/7_submitted.pkl                                    what its processes run (written and read by submitit)
    FOLDER/7_0_log.out                                        output and errors of process 0

A script can be written where there is no Slurm. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import io
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from cluster.errors import ClusterError, ClusterUsageError
from cluster.launcher import whole_number
from untrusted.errors import UnreadableError
from untrusted.yaml_data import read_yaml

if TYPE_CHECKING:
    from submitit.slurm.slurm import SlurmExecutor

REQUEUED = 255  # exit code of a process whose job submitit has put into the queue again

_SIOCGIFADDR = 0x8915  # of Linux: the address of an interface
_FIRST_PORT, _PORTS = 20_000, 12_000  # below the ports that Linux gives to outgoing connections, from 32,768 on
_TIME_FORMS = "MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, DAYS-HOURS:MINUTES[:SECONDS]"
# The script says these already, from other keys or because jobs here depend on them
_NOT_EXTRA = {
    "account", "array", "constraint", "cpus-per-task", "dependency", "error", "exclusive", "gpus-per-node", "job-name",
    "kill-on-invalid-dep", "mem",
    "no-kill", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "signal",
    "time",
}  # fmt: skip


def minutes(text: object) -> int:
    """A time in one of Slurm's forms, in minutes; seconds are rounded up, as Slurm does.

    Raises ValueError with the forms there are.
    """
    days, dash, clock = str(text).strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isascii() and part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise ValueError(f"a time is {_TIME_FORMS}")
    numbers = [int(part) for part in parts]
    if dash:
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 1:
        hours, mins, seconds = 0, numbers[0], 0
    else:
        hours, mins, seconds = (0, 0, *numbers)[-3:]
    return (int(days or 0) * 24 + hours) * 60 + mins + -(-seconds // 60)


def _lines(value: object) -> object:
    """`[module load cuda, source venv/bin/activate]` as in a request of one line, to a list."""
    if not isinstance(value, str):
        return value
    inside = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
    return [line.strip() for line in inside]


_Text = Annotated[str, StringConstraints(min_length=1)]


class SlurmRequest(BaseModel):
    """What is asked of Slurm for a job. What is None is left to the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time_min: Annotated[PositiveInt, BeforeValidator(minutes)] = Field(alias="time")
    nodes: PositiveInt = 1
    tasks_per_node: PositiveInt | None = None  # ranks of a training on every node; None: one for each GPU, or one
    gpus_per_node: NonNegativeInt = 0
    cpus_per_task: PositiveInt | None = None
    mem_gb: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)] | None = None  # per node; 0: all that it has
    partition: _Text | None = None
    account: _Text | None = None
    qos: _Text | None = None
    constraint: _Text | None = None
    exclusive: bool = False
    job_name: _Text | None = None
    setup: Annotated[tuple[_Text, ...], BeforeValidator(_lines)] = ()  # shell lines that come first on the first node
    signal_delay_s: Annotated[int, Field(ge=60)] = 120  # between the warning and the end; Slurm may warn 60 s early
    max_timeouts: NonNegativeInt = 30  # how often the job is put into the queue again when its time is over
    max_failures: NonNegativeInt = 3  # how often a training is, that was lost and has saved nothing since the last time
    extra: dict[str, _Text] = {}  # anything else that sbatch takes, by its long name; "true" for one without a value

    @property
    def tasks(self) -> int:
        """Ranks on every node."""
        return self.tasks_per_node or self.gpus_per_node or 1


def read_request(text: str) -> SlurmRequest:
    """A request from `KEY=VALUE,KEY=VALUE`, or from the YAML file that `text` names.

    Raises:
        ClusterUsageError: one line with the key, the value found and what would be valid.
    """
    if os.path.isfile(text):  # unlike Path's, it takes a text that is too long for a name
        return _validated(_yaml(Path(text)), text)
    if "=" not in text:
        raise ClusterUsageError(f"{text}: neither a file nor KEY=VALUE,KEY=VALUE; keys: {', '.join(_keys())}")
    return _validated(_pairs(text), "slurm")


def changed(request: SlurmRequest, keys: Mapping[str, object], where: str) -> SlurmRequest:
    """The request with other values for some keys; errors say `where` those come from."""
    return _validated({**request.model_dump(by_alias=True, exclude_unset=True), **keys}, where)


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
        raise ClusterError(f"sbatch refuses the job: {reason[-1].removeprefix('sbatch: ')}") from None
    finally:
        # Names without a job's number: what was not submitted, and links to what was
        for left in [*folder.glob(".submission_file_*.sh"), *folder.glob("?" * 32 + ".pkl")]:
            left.unlink(missing_ok=True)


def is_queued(job: str) -> bool:
    """Whether a job waits or runs, as far as this machine's Slurm knows."""
    return job_state(job) not in (None, UNKNOWN)


_ANSWER_S = 15.0  # squeue itself would try for a minute
_ASIDE_S = 5.0
_PATIENCE_S, _AGAIN_S = 120.0, 2.0
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
        state = ("RUNNING", "")
    # An scancel without a signal would kill them half a minute later, in the middle of a large save
    options = ["--signal=TERM"] if state is not None and state[0] == "RUNNING" else []
    asked = subprocess.run(["scancel", *options, job], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise ClusterError(f"scancel {job}: {asked.stderr.strip()}")


@dataclass(frozen=True)
class SlurmTask:
    """The place of this process in its job.

    Attributes:
        job_id: the job's number.
        restarts: how often it has been put into the queue again.
        rank: of this process among all of the job.
        size: how many there are.
        local_rank: of this process among those of its node.
        nodes: the names of all nodes; rank 0 is on the first.
        node: the name of this one.
        cpus: cores that this process may use.
        gpus: on this node.
    """

    job_id: int
    restarts: int
    rank: int
    size: int
    local_rank: int
    nodes: tuple[str, ...]
    node: str
    cpus: int
    gpus: int

    @classmethod
    def from_env(cls) -> Self:
        """Raises ClusterUsageError where srun did not start this process, or says what is no number."""
        from submitit.slurm.slurm import SlurmJobEnvironment

        try:
            return cls(
                job_id=whole_number("SLURM_JOB_ID"),
                restarts=whole_number("SLURM_RESTART_COUNT", "0"),
                rank=whole_number("SLURM_PROCID"),
                size=whole_number("SLURM_NTASKS"),
                local_rank=whole_number("SLURM_LOCALID"),
                nodes=tuple(SlurmJobEnvironment().hostnames),
                node=os.environ["SLURMD_NODENAME"],
                cpus=whole_number("SLURM_CPUS_PER_TASK") if os.environ.get("SLURM_CPUS_PER_TASK") else _share_of_cpus(),
                gpus=whole_number("SLURM_GPUS_ON_NODE", "0"),
            )
        except KeyError as error:
            raise ClusterUsageError(f"{error.args[0]} is not set: this is no process of a Slurm job") from None


def _share_of_cpus() -> int:
    """Of the cores that the job has on a node, for each of its tasks there."""
    return max(1, whole_number("SLURM_CPUS_ON_NODE") // max(1, whole_number("SLURM_NTASKS_PER_NODE", "1")))


def port_of(job_id: int, start: int = 0) -> int:
    """A port that all nodes of a job know without asking; two jobs on one node rarely have the same.

    Another one for every start, since who is left of the last one may still listen.
    """
    return _FIRST_PORT + (job_id + 97 * start) % _PORTS


def ip_towards(other_node: str) -> str:
    """The address of this node on the network on which it reaches another; its own name may say 127.0.1.1.

    Raises ClusterError if it does not reach it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        try:
            towards.connect((other_node, 9))  # sends nothing
        except OSError as error:
            raise ClusterError(f"no way to node {other_node}: {error.strerror}") from None
        ip: str = towards.getsockname()[0]
        return ip


def network_interface(ip: str) -> str | None:
    """Which one of this node has that address; None without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                told = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(told[20:24]) == ip:
                    return name
    return None


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


def _pairs(text: str) -> dict[str, str]:
    """Split at commas, except within brackets."""
    found: dict[str, str] = {}
    for item in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        key, sign, value = (part.strip() for part in item.partition("="))
        if not sign:
            raise ClusterUsageError(f"slurm: {item.strip()}: not KEY=VALUE; keys: {', '.join(_keys())}")
        if key in found:
            raise ClusterUsageError(f"slurm: {key} is given twice: {found[key]} and {value}")
        found[key] = value
    return found


def _yaml(path: Path) -> Mapping[str, object]:
    try:
        # Values stay text: YAML would read 2:00:00 as the number 7200, and we that as minutes
        tree = read_yaml(path, all_text=True)
    except UnreadableError as error:
        raise ClusterUsageError(str(error)) from None
    if not isinstance(tree, dict):
        raise ClusterUsageError(f"{path}: not a mapping of keys; keys: {', '.join(_keys())}")
    return tree


def _validated(tree: Mapping[str, object], where: str) -> SlurmRequest:
    try:
        request = SlurmRequest.model_validate(tree)
    except ValidationError as error:
        raise ClusterUsageError(f"{where}: {'; '.join(_describe(detail) for detail in error.errors())}") from None
    for name in request.extra:
        if name.replace("_", "-") in _NOT_EXTRA:
            raise ClusterUsageError(f"{where}: extra.{name}: not here; keys beside extra: {', '.join(_keys())}")
    return request


def _describe(detail: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, _keys(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"keys: {', '.join(_keys())}"
        return f"{key}: no such key; {hint}; other options of sbatch go under extra: in a YAML file"
    if detail["type"] == "missing":
        return f"{key}: missing; {_TIME_FORMS}" if key == "time" else f"{key}: missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, found {detail['input']!r}"


def _keys() -> list[str]:
    return [field.alias or name for name, field in SlurmRequest.model_fields.items()]
