"""A node of a Ray cluster in a job: here processes stand for two nodes; the drills have a real Slurm."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs.verdict import Ending, start_folder

Start = Callable[..., subprocess.Popen[str]]
# What the nodes of the cluster are called, and how one gets in
LOOK = """
import os, ray
from cluster.ray import connected
with connected("auto"):
    print(sorted(node["NodeName"] for node in ray.nodes()), ray.cluster_resources()["CPU"], os.environ["RAY_AUTH_MODE"])
"""


@pytest.fixture
def job() -> int:
    """A number that no other job has, which decides about ports."""
    return 1 + secrets.randbelow(10**6)


@pytest.fixture
def start(tmp_path: Path, job: int) -> Iterator[Start]:
    """`start(command, rank=0, nodes=1, wait_s=240)`: one node of a job, which all are here."""
    started = []

    def run(command: Sequence[str], *, rank: int = 0, nodes: int = 1, wait_s: float = 240.0) -> subprocess.Popen[str]:
        place = {
            "SLURM_JOB_ID": str(job),
            "SLURM_PROCID": str(rank),
            "SLURM_NTASKS": str(nodes),
            "SLURM_LOCALID": "0",
            "SLURM_JOB_NODELIST": ",".join(f"127.0.0.{1 + i}" for i in range(nodes)),
            "SLURMD_NODENAME": f"127.0.0.{1 + rank}",
            "SLURM_CPUS_ON_NODE": "1",
        }
        program = [sys.executable, "-m", "cluster.ray_node", str(tmp_path), str(wait_s), *command]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(program, env={**os.environ, **place}, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def left_of(job: int) -> list[str]:
    """Processes and folders."""
    found = [str(path) for path in Path("/tmp").glob(f"r{job}-*")]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"SLURM_JOB_ID={job}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
    return found


def last_line(process: subprocess.Popen[str]) -> str:
    """Of what it printed to its end."""
    return process.communicate(timeout=300)[0].splitlines()[-1]


def test_a_command_finds_all_nodes_with_a_token_that_nobody_else_reads(tmp_path: Path, job: int, start: Start) -> None:
    nodes = [start([sys.executable, "-c", LOOK], rank=rank, nodes=2) for rank in (1, 0)]
    printed = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert printed[1].splitlines()[-1] == "['127.0.0.1', '127.0.0.2'] 2.0 token"  # as it came
    assert stat.S_IMODE((tmp_path / "ray-token").stat().st_mode) == 0o600
    assert left_of(job) == []


def test_a_command_that_fails_has_the_last_word_and_its_exit_code(job: int, start: Start) -> None:
    head = start(["sh", "-c", "echo error: no such key >&2; sleep 100 & exit 2"])
    assert last_line(head) == "error: no such key"
    assert head.returncode == 2
    assert left_of(job) == []


def test_a_command_that_is_killed_may_go_well_the_next_time(start: Start) -> None:
    head = start(["sh", "-c", "kill -9 $$"])
    assert last_line(head) == "error: the command was killed by SIGKILL"
    assert head.returncode == 3


def test_a_head_that_is_asked_to_stop_ends_when_the_command_has_saved(tmp_path: Path, job: int, start: Start) -> None:
    save = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit' TERM; touch {tmp_path}/began; while :; do sleep 0.1; done"
    head = start(["sh", "-c", save.replace("exit'", "exit 7'")])
    deadline = time.monotonic() + 300
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        assert head.poll() is None
        time.sleep(0.1)
    head.send_signal(signal.SIGTERM)
    head.communicate(timeout=300)
    assert head.returncode == 130  # whatever the command's own is
    assert (tmp_path / "saved").exists()
    assert left_of(job) == []


def test_a_node_that_does_not_come_is_named(tmp_path: Path, start: Start) -> None:
    head = start(["touch", str(tmp_path / "began")], nodes=2, wait_s=1.0)
    assert last_line(head) == "error: 1 of 2 nodes have not joined Ray in 1 s: 127.0.0.2"
    assert head.returncode == 3
    assert not (tmp_path / "began").exists()


def test_a_head_that_does_not_come_is_named(tmp_path: Path, job: int, start: Start) -> None:
    ended(start_folder(tmp_path, job, 7))  # an earlier start says nothing about this
    node = start(["true"], rank=1, nodes=2, wait_s=1.0)
    port = 20_000 + job % 12_000
    assert last_line(node) == f"error: 127.0.0.2: no answer from Ray's head at 127.0.0.1:{port} in 1 s"
    assert node.returncode == 3


def test_nobody_waits_for_a_head_that_has_ended(tmp_path: Path, job: int, start: Start) -> None:
    ended(start_folder(tmp_path, job, 0))
    node = start(["true"], rank=1, nodes=2, wait_s=600.0)
    node.communicate(timeout=300)  # less than it would wait
    assert node.returncode == 0


def test_a_port_that_is_taken_is_named(job: int, start: Start) -> None:
    port = 20_000 + job % 12_000
    with socket.socket() as taken:
        taken.bind(("", port))
        head = start(["true"])
        assert f"port {port}, which job {job} would use, is taken" in last_line(head)
    assert head.returncode == 3


def test_a_command_that_is_not_there_is_named_before_ray_starts(start: Start) -> None:
    head = start(["spyder", "neighbors"])
    assert head.communicate(timeout=300)[0] == "error: spyder: no such program on 127.0.0.1\n"
    assert head.returncode == 1


def ended(folder: Path) -> None:
    """The head has said how it ended."""
    Ending(0, "n1", 1, "?", False, False, False, False, None, False).write(folder)
