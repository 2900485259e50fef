"""What every process of a job runs, how the end of the job is judged, and what it takes to run it.

    RankCommand    ranks that work in step: a training. All must end well; when one has failed, the others are ended
    RayCommand     a Ray cluster of the job's nodes, and a driver on the first: a neighbour search, a sweep. The end of
                   the driver is the end of the job; a node that is lost is the driver's concern

The command must resume from what is on the disk: what is told to a start is the same for each.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cluster.errors import ClusterError, ClusterUsageError
from cluster.jobs.saves import PROGRESS
from cluster.ray_place import IN_SHELL
from cluster.slurm.place import SlurmTask, ip_towards, network_interface, port_of
from cluster.slurm.request import SlurmRequest


@dataclass(frozen=True)
class JobCommand(ABC):
    """What the processes of a job run.

    Attributes:
        command: program and arguments.
        cwd: the folder that the places in them are relative to.
        saves: what tells how far the command is, see `newest_in`; None: nothing is saved.
        stacks: a folder in which a rank that hangs leaves its stacks, `rank-0.txt`.
        led: whether process 0 alone decides how the job ended.
        srun_args, sbatch: what Slurm is told of such a job.
    """

    command: tuple[str, ...]
    cwd: Path
    saves: Path | None = None
    stacks: Path | None = None

    led: ClassVar[bool]
    srun_args: ClassVar[tuple[str, ...]]
    sbatch: ClassVar[tuple[str, ...]] = ()
    tidy: ClassVar[tuple[str, ...]] = ()  # shell lines on the first node when all processes have ended

    @abstractmethod
    def tasks_per_node(self, request: SlurmRequest) -> int:
        """How many processes each node has. Raises ClusterUsageError for a request that does not fit."""

    @abstractmethod
    def words(self, folder: Path) -> tuple[str, ...]:
        """Program and arguments of one process of the job whose files are in `folder`."""

    @abstractmethod
    def env(self, place: SlurmTask) -> dict[str, str]:
        """The whole environment of one process."""


@dataclass(frozen=True)
class RankCommand(JobCommand):
    """The same command on every rank."""

    led: ClassVar[bool] = False
    srun_args: ClassVar[tuple[str, ...]] = ("--kill-on-bad-exit=1",)  # the others wait in vain for a rank that failed

    def tasks_per_node(self, request: SlurmRequest) -> int:
        """As the request says."""
        return request.tasks

    def words(self, folder: Path) -> tuple[str, ...]:
        """The command."""
        return self.command

    def env(self, place: SlurmTask) -> dict[str, str]:
        """What tells torch.distributed of a rank, beside all that this process was told."""
        return rank_env(place)


@dataclass(frozen=True)
class RayCommand(JobCommand):
    """A driver that finds a Ray cluster of all nodes of the job at RAY_ADDRESS.

    Attributes:
        wait_s: how long the nodes of the job wait for each other.
    """

    wait_s: float = 600.0

    led: ClassVar[bool] = True
    # A node may be lost without the job; one process starts all others, on all cores
    srun_args: ClassVar[tuple[str, ...]] = ("--kill-on-bad-exit=0", "--wait=0", "--no-kill", "--cpu-bind=none")
    sbatch: ClassVar[tuple[str, ...]] = ("no-kill",)
    tidy: ClassVar[tuple[str, ...]] = (f"rm -rf {IN_SHELL}/r$SLURM_JOB_ID-*  # of a head that was killed",)

    def tasks_per_node(self, request: SlurmRequest) -> int:
        """One: it starts a Ray that has all of the node."""
        if request.tasks_per_node is not None:
            raise ClusterUsageError("tasks_per_node: one Ray on every node has all that it gives; leave it out")
        return 1

    def words(self, folder: Path) -> tuple[str, ...]:
        """A node of the cluster; the first one runs the command."""
        return (sys.executable, "-m", "cluster.ray_node", str(folder), f"{self.wait_s:g}", *self.command)

    def env(self, place: SlurmTask) -> dict[str, str]:
        """Nothing tells the driver that it is one of several: it is not."""
        progress = {} if self.saves is None else {PROGRESS: str(self.saves)}
        return {**os.environ, **progress, "PYTHONUNBUFFERED": "1"}


def shown(command: tuple[str, ...]) -> str:
    """For a reader of a script, in one line: a line break would end a comment, and run what follows."""
    return " ".join(shlex.join(command).splitlines())


def rank_env(place: SlurmTask) -> dict[str, str]:
    """What tells torch.distributed of a rank, beside all that this process was told."""
    env = dict(os.environ)
    env.setdefault("OMP_NUM_THREADS", str(place.cpus))
    if place.size == 1:
        return {**env, "PYTHONUNBUFFERED": "1"}
    if len(place.nodes) > 1 and (interface := _interface(place)) is not None:
        env.setdefault("GLOO_SOCKET_IFNAME", interface)
    return {
        **env,
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.size // len(place.nodes)),
        "MASTER_ADDR": place.nodes[0],
        "MASTER_PORT": str(port_of(place.job_id, place.restarts)),
        "PYTHONUNBUFFERED": "1",
    }


def _interface(place: SlurmTask) -> str | None:
    """On which gloo shall listen where this node's name says 127.0.1.1, as Debian's do: others would not find it."""
    with suppress(OSError, ClusterError):
        if socket.gethostbyname(socket.gethostname()).startswith("127."):
            return network_interface(ip_towards(next(node for node in place.nodes if node != place.node)))
    return None
