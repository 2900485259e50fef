"""What a process of a Slurm job knows about its place, and how it finds the others."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cluster.errors import ClusterUsageError, MachineError
from cluster.launcher import whole_number

if TYPE_CHECKING:
    pass

_SIOCGIFADDR = 0x8915  # of Linux: the address of an interface
_FIRST_PORT, _PORTS = 20_000, 12_000  # below the ports that Linux gives to outgoing connections, from 32,768 on


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

    Raises MachineError if it does not reach it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        try:
            towards.connect((other_node, 9))  # sends nothing
        except OSError as error:
            raise MachineError(f"no way to node {other_node}: {error.strerror}") from None
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
