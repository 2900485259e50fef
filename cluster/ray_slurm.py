"""Ray inside one Slurm job: a command that finds a cluster of all the job's nodes at RAY_ADDRESS.

    job = submit_with_ray(["spider", "neighbors", ..., "--ray", "auto"], read_request("nodes=4,time=8:00:00"), folder)

    FOLDER/_SUCCESS         the command ended well
    FOLDER/_FAILED          it did not, or never began. JSON: job, restarts, command, exit_code, reason, last_lines
    FOLDER/job              the number of the last job
    FOLDER/ray-token        without it nobody gets a word out of the cluster, which runs what it is told
    FOLDER/7_0_log.out      what the command printed, in job 7

One process runs on every node. That on the first, the head, starts Ray, waits until all others have joined, runs the
command, writes the marker. The others join, and again if their Ray dies, and leave when the head has. A node that is
lost does not end the job: the command decides what that means. When the job is preempted or its time is over, it is put
into the queue again, so that commands must be such that a second start continues.

Success is what the marker says, and the exit code of the job follows it: that of srun would count lost nodes, and tell
nothing of a Ray that never came up.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import children
from cluster.errors import ClusterError, ClusterUsageError
from cluster.ray_place import IN_SHELL, make_folder
from cluster.slurm import (
    REQUEUED,
    JobSignals,
    Launch,
    SlurmRequest,
    SlurmTask,
    discard_torn_files,
    ip_towards,
    is_queued,
    port_of,
    script,
    submit,
)
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

SUCCESS = "_SUCCESS"
FAILED = "_FAILED"

_TOKEN = "ray-token"
_JOB = "job"
_OBJECT_STORE_BYTES = 512 << 20  # pieces of work and what they return are small; Ray would take a third of the memory
_SAVE_S = 45.0  # for the command, of the 60 s or more that a preempted job has
_LEAVE_S = 15.0  # the same, of the 30 s that a cancelled job has
_HEAD_START_S = 180.0  # of Ray itself, on a slow file system
_REJOINS = 5
_POLL_S = 0.2
_LOOK_S = 2.0  # how often a node asks whether the head is still there


def submit_with_ray(
    command: Sequence[str], request: SlurmRequest, folder: Path, *, name: str = "ray", wait_s: float = 600.0
) -> str:
    """Put a job into the queue that runs `command` on Ray.

    Args:
        command: program and arguments, run on the first node in the present directory.
        request: nodes, GPUs, time.
        folder: for the marker and all else; shared by the nodes, and by no other job.
        name: of the job, if the request has none.
        wait_s: how long the nodes of the job wait for each other.

    Returns:
        The job's number.

    Raises:
        ClusterUsageError: there is no Slurm here, or the folder's last job is still in its queue.
        ClusterError: Slurm refuses, with its reason.
    """
    _refuse_ranks(request)
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / _JOB
    if last.is_file() and is_queued(last.read_text().strip()):
        raise ClusterUsageError(f"{folder}: its job {last.read_text().strip()} is still in the queue or running")
    _forget(folder)
    has_token = (folder / _TOKEN).exists()
    _write_token(folder / _TOKEN)
    try:
        job = submit(RayJob(tuple(command), folder, wait_s), request, folder, _launch(command, folder, name))
    except ClusterError:
        if not has_token:
            (folder / _TOKEN).unlink()
        raise
    last.write_text(f"{job}\n")
    return job


def script_with_ray(command: Sequence[str], request: SlurmRequest, folder: Path, *, name: str = "ray") -> str:
    """The script that `submit_with_ray` would give to sbatch. Needs no Slurm, and writes nothing."""
    _refuse_ranks(request)
    folder = folder.expanduser().absolute()
    return script(request, folder, _launch(command, folder, name))


def _refuse_ranks(request: SlurmRequest) -> None:
    if request.tasks_per_node is not None:
        raise ClusterUsageError("tasks_per_node: one Ray on every node has all that it gives; leave it out")


def _launch(command: Sequence[str], folder: Path, name: str) -> Launch:
    success, failed = (shlex.quote(str(folder / name)) for name in (SUCCESS, FAILED))
    lost = json.dumps({"reason": "the head ended without a word; the log may have one"})
    return Launch(
        name=name,
        tasks_per_node=1,
        # A node may be lost without the job; one process starts all others, on all cores
        srun_args=("--kill-on-bad-exit=0", "--wait=0", "--no-kill", "--cpu-bind=none"),
        before=(
            f"# the command: {' '.join(shlex.join(command).splitlines())}",  # for who reads; a line break would run it
            f"rm -f {success} {failed}",
        ),
        after=(
            "code=$?",
            f"rm -rf {IN_SHELL}/r$SLURM_JOB_ID-*  # of a head that was killed",
            f"if [ $code -eq {REQUEUED} ]; then exit $code; fi  # back in the queue",
            f"if [ -e {success} ]; then exit 0; fi",
            f"if [ ! -e {failed} ]; then echo {shlex.quote(lost)} > {failed}; fi",
            "exit 1",
        ),
        sbatch=("no-kill",),
    )


@dataclass(frozen=True)
class RayJob:
    """What every process of the job runs, one on each node.

    Attributes:
        command: program and arguments.
        folder: of the marker.
        wait_s: how long nodes wait for each other.
    """

    command: tuple[str, ...]
    folder: Path
    wait_s: float

    def checkpoint(self) -> DelayedSubmission:
        """What the job runs after a requeue: the same, since what is there already is found on disk."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Ends with SystemExit when the command did not succeed, or the job is in the queue again."""
        task = SlurmTask.from_env()
        discard_torn_files(task)
        try:
            with JobSignals() as signals:
                if task.rank == 0:
                    self._lead(task, signals)
                else:
                    self._follow(task, signals)
        except ClusterError as error:
            sys.exit(f"{task.node}: {error}")  # exit code 1, and not submitit's traceback

    def _lead(self, task: SlurmTask, signals: JobSignals) -> None:
        _forget(self.folder)
        output = children.Output()
        try:
            try:
                self._run_command(task, signals, output)
            except ClusterError:
                if signals.preempted:
                    signals.requeue()
                raise
        except ClusterError as error:
            self._write_marker(FAILED, task, output, str(error))
            raise
        self._write_marker(SUCCESS, task, output)

    def _run_command(self, task: SlurmTask, signals: JobSignals, output: children.Output) -> None:
        """Raises ClusterError unless it ends well."""
        if shutil.which(self.command[0]) is None:
            raise ClusterError(f"{self.command[0]}: no such program on {task.node}")
        port = port_of(task.job_id)
        _require_free(port, task)
        own_ip = ip_towards(task.nodes[-1])
        env = {**_ray_env(self.folder), "RAY_ADDRESS": f"{own_ip}:{port}"}
        with _scratch_folder(task) as scratch:
            ray = _Ray(task, self.folder, scratch, "--head", f"--port={port}", f"--node-ip-address={own_ip}")
            _say(task, f"Ray's head is {own_ip}:{port}; waiting for {len(task.nodes)} nodes")
            self._gather(task, ray, signals, env)
            _say(task, f"all are there; running {shlex.join(self.command)}")
            command = children.start(self.command, env=env, stdout=subprocess.PIPE, deaf_to=[signal.SIGUSR2])
            output.follow(command)
            try:
                code = _attend(command, ray, signals)
            except ClusterError:
                children.end(command, _SAVE_S if signals.preempted else _LEAVE_S)
                raise
        if code != 0:
            how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            raise ClusterError(f"the command ended with {how}")

    def _gather(self, task: SlurmTask, ray: _Ray, signals: JobSignals, env: Mapping[str, str]) -> None:
        """Wait until all nodes have joined."""
        deadline = time.monotonic() + _HEAD_START_S
        while not _answers(env["RAY_ADDRESS"]):
            if time.monotonic() > deadline:
                raise ClusterError(f"Ray's head does not answer at {env['RAY_ADDRESS']}: {ray.last_line()}")
            _check(ray, signals)
            time.sleep(_POLL_S)
        command = [sys.executable, "-m", "cluster.ray_nodes", str(self.wait_s), *task.nodes]
        gathering = children.start(command, env=env, stdout=subprocess.PIPE, deaf_to=[signal.SIGUSR2])
        if _attend(gathering, ray, signals) != 0:
            assert gathering.stdout is not None
            raise ClusterError(gathering.stdout.read().decode(errors="replace").strip().rpartition("\n")[2])

    def _follow(self, task: SlurmTask, signals: JobSignals) -> None:
        """Be a part of the head's cluster for as long as that is there."""
        address = f"{task.nodes[0]}:{port_of(task.job_id)}"
        deadline = time.monotonic() + self.wait_s
        while not _answers(address):
            if signals.cancelled or self._has_failed(task):
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"no answer from Ray's head at {address} in {self.wait_s:g} s")
            time.sleep(_LOOK_S)
        for _ in range(1 + _REJOINS):
            with _scratch_folder(task) as scratch:
                own_ip = ip_towards(task.nodes[0])
                ray = _Ray(task, self.folder, scratch, f"--address={address}", f"--node-ip-address={own_ip}")
                while ray.is_alive() and not signals.cancelled and not _is_gone(address):
                    time.sleep(_LOOK_S)
                if signals.cancelled or _is_gone(address):
                    return
                last_line = ray.last_line()
            _say(task, f"Ray died here, and starts again: {last_line}")
        raise ClusterError(f"Ray died {1 + _REJOINS} times: {last_line}")

    def _has_failed(self, task: SlurmTask) -> bool:
        """Whether the head has given up in this start of the job; another node may still see the marker of the last."""
        try:
            about = read_json(self.folder / FAILED)
        except (OSError, UnreadableError):
            return False
        return isinstance(about, dict) and (about.get("job"), about.get("restarts")) == (task.job_id, task.restarts)

    def _write_marker(self, name: str, task: SlurmTask, output: children.Output, reason: str | None = None) -> None:
        about = {
            "job": task.job_id,
            "restarts": task.restarts,
            "command": self.command,
            "exit_code": output.exit_code,
            "reason": reason,
            "last_lines": output.last_lines(),
        }
        written = self.folder / f".{name}"
        written.write_text(json.dumps(about, indent=2) + "\n")
        written.replace(self.folder / name)


class _Ray:
    """Ray's processes on this node: `ray start`, which ends when any of those that it started does."""

    def __init__(self, task: SlurmTask, folder: Path, scratch: Path, *arguments: str) -> None:
        self._log = scratch / "start.log"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *arguments,
            f"--node-name={task.node}",
            f"--num-cpus={task.cpus}",
            f"--num-gpus={task.gpus}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--temp-dir={scratch}",
            # Any port that is free: the ranges that Ray would take are the same in every job on the node
            "--min-worker-port=0",
            "--max-worker-port=0",
            *(("--include-dashboard=false", f"--ray-client-server-port={_free_port()}") if task.rank == 0 else ()),
        ]
        with self._log.open("wb") as log:
            self._process = children.start(command, env=_ray_env(folder), stdout=log, deaf_to=[signal.SIGUSR2])

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def last_line(self) -> str:
        """Of what it printed; all of the end of that goes to the job's log."""
        lines = children.last_lines(self._log.read_bytes())
        print("\n".join(lines), flush=True)
        return lines[-1] if lines else "it printed nothing"


def _attend(child: subprocess.Popen[bytes], ray: _Ray, signals: JobSignals) -> int:
    """Its exit code. Raises ClusterError if the job is asked to stop, or Ray dies, before there is one."""
    while child.poll() is None:
        _check(ray, signals)
        time.sleep(_POLL_S)
    if child.returncode != 0:
        _check(ray, signals)  # which then is the reason
    return child.returncode


def _check(ray: _Ray, signals: JobSignals) -> None:
    if signals.preempted:
        raise ClusterError(f"stopped by {signals.preemption.name}")
    if signals.cancelled:
        raise ClusterError("stopped by SIGTERM")
    if not ray.is_alive():
        raise ClusterError(f"Ray died on the head: {ray.last_line()}")


@contextmanager
def _scratch_folder(task: SlurmTask) -> Iterator[Path]:
    """A folder on this node, with a short name, since Ray puts sockets there. No process of ours is left afterwards."""
    children.adopt_orphans()
    folder = make_folder(f"r{task.job_id}-")
    try:
        yield folder
    finally:
        children.kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def _ray_env(folder: Path) -> dict[str, str]:
    """For everything that is a part of the cluster."""
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / _TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will, and warns that it does not yet
    }
    return {**{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, **settings}


def _require_free(port: int, task: SlurmTask) -> None:
    with socket.socket() as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            there.bind(("", port))
        except OSError as error:
            raise ClusterError(f"port {port}, which job {task.job_id} would use, is taken: {error.strerror}") from None


def _free_port() -> int:
    with socket.socket() as there:
        there.bind(("", 0))
        port: int = there.getsockname()[1]
        return port


def _answers(address: str) -> bool | None:
    """Whether somebody listens at HOST:PORT; None: no word, perhaps only for now."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_LOOK_S).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
    return True


def _is_gone(address: str) -> bool:
    """Whether nobody listens there, now and in a moment."""
    if _answers(address) is not False:
        return False
    time.sleep(_POLL_S)
    return _answers(address) is False


def _forget(folder: Path) -> None:
    """Remove the markers of an earlier start."""
    for name in (SUCCESS, FAILED):
        (folder / name).unlink(missing_ok=True)


def _write_token(path: Path) -> None:
    """For its owner's eyes. One that is there is kept: a job may be using it."""
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as token:
            token.write(secrets.token_hex(32))


def _say(task: SlurmTask, text: str) -> None:
    print(f"{task.node}: {text}", flush=True)
