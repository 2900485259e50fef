"""One node of a Ray cluster that lasts as long as a job: `python -m cluster.ray_node FOLDER SECONDS COMMAND...`

    FOLDER/ray-token    without it nobody gets a word out of the cluster, which runs what it is told

The first node of the job is the head: it starts Ray, waits until all others have joined, at most so many seconds, runs
the command with RAY_ADDRESS set, and ends as the command does. The others join, join again if their Ray dies, and
leave when the head has. Asked to stop (SIGTERM), the head passes that on to the command, waits until it has saved, and
ends with exit code 130. Every node then waits for what Ray had started, such as trainings that save.

What a machine does wrong (Ray dies, a node does not come) ends with exit code 3: the job may start again.
"""

from __future__ import annotations

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
from importlib.util import find_spec
from pathlib import Path

from cluster import children
from cluster.errors import ClusterError, MachineError
from cluster.jobs.verdict import STOPPED, read_endings
from cluster.ray_place import make_folder
from cluster.slurm.place import SlurmTask, ip_towards, port_of
from untrusted.counts import counted

TOKEN = "ray-token"
_OBJECT_STORE_BYTES = 512 << 20  # pieces of work and what they return are small; Ray would take a third of the memory
_SAVE_S = 600.0  # for a command that was asked to stop; who limits the time of the job ends this process earlier
_LEFT_S = 120.0  # for what Ray had started, when Ray itself has been asked to end
_HEAD_START_S = 180.0  # of Ray itself, on a slow file system
_REJOINS = 5
_POLL_S = 0.2
_LOOK_S = 2.0  # how often a node asks whether the head is still there


class _Stopped(Exception):
    """This process was asked to stop."""


class _Stop:
    """Hears SIGTERM."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def check(self) -> None:
        """Raises _Stopped once it was asked for."""
        if self.asked:
            raise _Stopped

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True


@dataclass(frozen=True)
class RayNode:
    """This process's node.

    Attributes:
        place: in the job.
        folder: of the job's files.
        wait_s: how long nodes wait for each other.
    """

    place: SlurmTask
    folder: Path
    wait_s: float

    def lead(self, command: Sequence[str], stop: _Stop) -> int:
        """Be the head, and run the command on the cluster. Its exit code.

        Raises:
            ClusterError: the command is not there.
            MachineError: Ray does not come up or dies, a node does not come, a signal killed the command.
        """
        place = self.place
        if shutil.which(command[0]) is None:
            raise ClusterError(f"{command[0]}: no such program on {place.node}")
        port = port_of(place.job_id, place.restarts)
        _require_free(port, place)
        _write_token(self.folder / TOKEN)
        own_ip = ip_towards(place.nodes[-1])
        env = {**_ray_env(self.folder), "RAY_ADDRESS": f"{own_ip}:{port}"}
        with _ray(place, self.folder, stop, "--head", f"--port={port}", f"--node-ip-address={own_ip}") as ray:
            _say(place, f"Ray's head is {own_ip}:{port}; waiting for {counted(len(place.nodes), 'node')}")
            self._gather(ray, stop, env)
            _say(place, f"all are there; running {shlex.join(command)}")
            return self._drive(command, ray, stop, env)

    def follow(self, stop: _Stop) -> None:
        """Be a part of the head's cluster for as long as that is there. Raises MachineError if it does not come."""
        place = self.place
        address = f"{place.nodes[0]}:{port_of(place.job_id, place.restarts)}"
        deadline = time.monotonic() + self.wait_s
        while not _answers(address):
            stop.check()
            if self._head_has_ended():
                return
            if time.monotonic() > deadline:
                raise MachineError(f"{place.node}: no answer from Ray's head at {address} in {self.wait_s:g} s")
            time.sleep(_LOOK_S)
        for _ in range(1 + _REJOINS):
            own_ip = ip_towards(place.nodes[0])
            with _ray(place, self.folder, stop, f"--address={address}", f"--node-ip-address={own_ip}") as ray:
                while ray.is_alive() and not stop.asked and not _is_gone(address):
                    time.sleep(_LOOK_S)
                stop.check()
                if _is_gone(address):
                    return
                last_line = ray.last_line()
            _say(place, f"Ray died here, and starts again: {last_line}")
        raise MachineError(f"{place.node}: Ray died {1 + _REJOINS} times: {last_line}")

    def _gather(self, ray: _Ray, stop: _Stop, env: Mapping[str, str]) -> None:
        """Wait until all nodes have joined."""
        deadline = time.monotonic() + _HEAD_START_S
        while not _answers(env["RAY_ADDRESS"]):
            if time.monotonic() > deadline:
                raise MachineError(f"Ray's head does not answer at {env['RAY_ADDRESS']}: {ray.last_line()}")
            stop.check()
            ray.require_alive()
            time.sleep(_POLL_S)
        command = [sys.executable, "-m", "cluster.ray_nodes", str(self.wait_s), *self.place.nodes]
        gathering = children.start(command, env=env, stdout=subprocess.PIPE)
        while gathering.poll() is None:
            stop.check()
            ray.require_alive()
            time.sleep(_POLL_S)
        if gathering.returncode != 0:
            assert gathering.stdout is not None
            raise MachineError(gathering.stdout.read().decode(errors="replace").strip().rpartition("\n")[2])

    def _drive(self, command: Sequence[str], ray: _Ray, stop: _Stop, env: Mapping[str, str]) -> int:
        driver = children.start(command, env=env, stdout=sys.stdout.fileno())
        while driver.poll() is None:
            if stop.asked:
                children.end(driver, _SAVE_S)
                break
            if not ray.is_alive():
                children.end(driver, _LEFT_S)
                stop.check()  # Slurm asks every process, and Ray may be the first to hear
                ray.require_alive()
            time.sleep(_POLL_S)
        if driver.returncode == 0:
            return 0
        stop.check()
        ray.require_alive()  # which then is the reason
        if driver.returncode < 0:
            raise MachineError(f"the command was killed by {signal.Signals(-driver.returncode).name}")
        return driver.returncode

    def _head_has_ended(self) -> bool:
        """Whether the head has given up in this start of the job."""
        endings = read_endings(self.folder, self.place.job_id, self.place.restarts)
        return any(ending.rank == 0 for ending in endings)


class _Ray:
    """Ray's processes on this node: `ray start`, which ends when any of those that it started does."""

    def __init__(self, place: SlurmTask, folder: Path, scratch: Path, *arguments: str) -> None:
        self._node = place.node
        self._log = scratch / "start.log"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *arguments,
            f"--node-name={place.node}",
            f"--num-cpus={place.cpus}",
            f"--num-gpus={place.gpus}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--temp-dir={scratch}",
            # Any port that is free: the ranges that Ray would take are the same in every job on the node
            "--min-worker-port=0",
            "--max-worker-port=0",
            *(("--include-dashboard=false", f"--ray-client-server-port={_free_port()}") if place.rank == 0 else ()),
        ]
        with self._log.open("wb") as log:
            self._process = children.start(command, env=_ray_env(folder), stdout=log)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def require_alive(self) -> None:
        """Raises MachineError with its last word."""
        if not self.is_alive():
            raise MachineError(f"Ray died on {self._node}: {self.last_line()}")

    def last_line(self) -> str:
        """Of what it printed; all of the end of that goes to the job's log."""
        lines = children.last_lines(self._log.read_bytes())
        print("\n".join(lines), flush=True)
        return lines[-1] if lines else "it printed nothing"

    def kill(self) -> None:
        """All of Ray, at once: asked to end, it takes half a minute. What its workers started is told to end."""
        spec = find_spec("ray")
        assert spec is not None
        assert spec.origin is not None
        for pid in children.descendants(os.getpid()):
            if pid == self._process.pid or _is_of(Path(spec.origin).parent, pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def _ray(place: SlurmTask, folder: Path, stop: _Stop, *arguments: str) -> Iterator[_Ray]:
    """Ray on this node, in a folder with a short name, since it puts sockets there. Nothing is left afterwards."""
    children.adopt_orphans()
    scratch = make_folder(f"r{place.job_id}-")
    ray = _Ray(place, folder, scratch, *arguments)
    try:
        yield ray
    finally:
        if stop.asked:
            ray.kill()
            _let_end()
        children.kill_all()
        shutil.rmtree(scratch, ignore_errors=True)


def _let_end() -> None:
    """Wait for what is left: trainings, which hear that their parent has died, and save."""
    deadline = time.monotonic() + _LEFT_S
    while any(_is_running(pid) for pid in children.descendants(os.getpid())) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _is_of(package: Path, pid: int) -> bool:
    """Whether a process runs Ray's programs, or is a worker, which calls itself `ray::...`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return False
    return words[0].startswith(b"ray::") or any(word.startswith(bytes(package)) for word in words)


def _is_running(pid: int) -> bool:
    """Whether it has not ended; one that has, and whose parent has not asked how, is still listed."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def _ray_env(folder: Path) -> dict[str, str]:
    """For everything that is a part of the cluster."""
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will, and warns that it does not yet
    }
    return {**{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, **settings}


def _require_free(port: int, place: SlurmTask) -> None:
    with socket.socket() as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            there.bind(("", port))
        except OSError as error:
            raise MachineError(f"port {port}, which job {place.job_id} would use, is taken: {error.strerror}") from None


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


def _write_token(path: Path) -> None:
    """For its owner's eyes. One that is there is kept: nodes of an earlier start may be using it."""
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as token:
            token.write(secrets.token_hex(32))


def _say(place: SlurmTask, text: str) -> None:
    print(f"{place.node}: {text}", flush=True)


def main(folder: str, wait_s: str, *command: str) -> int:
    """The exit code."""
    stop = _Stop()
    try:
        node = RayNode(SlurmTask.from_env(), Path(folder), float(wait_s))
        if node.place.rank == 0:
            return node.lead(command, stop)
        node.follow(stop)
    except _Stopped:
        return STOPPED
    except ClusterError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
