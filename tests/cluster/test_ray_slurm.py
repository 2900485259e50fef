"""Ray in a Slurm job: the script is as it was; here two processes stand for two nodes; the drills have a real Slurm."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import shlex
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

from cluster.errors import ClusterError, ClusterUsageError
from cluster.ray_slurm import FAILED, SUCCESS, RayJob, script_with_ray, submit_with_ray
from cluster.slurm import read_request

GOLDEN = Path(__file__).parent
COMMAND = ["spider", "neighbors", "shards/target", "shards/a set", "--ray", "auto"]
REQUESTS = {
    "ray_1_node.sbatch": "time=30",
    "ray_2_nodes_8_gpus.sbatch": (
        "nodes=2,gpus_per_node=8,partition=gpu,time=2:00:00,cpus_per_task=96,mem_gb=0,account=lab,exclusive=true,"
        "setup=[module load cuda/12.4, source /shared/venv/bin/activate]"
    ),
}
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
    """`start(command, rank=0, nodes=1, wait_s=240)`: the process of a job on one of its nodes, which all are here."""
    (tmp_path / "ray-token").write_text("secret")
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
        task = f"RayJob({tuple(command)!r}, Path({str(tmp_path)!r}), {wait_s})"
        program = [sys.executable, "-c", f"from cluster.ray_slurm import *; {task}()"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(program, env={**os.environ, **place}, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def marker(folder: Path) -> tuple[str, dict[str, Any]]:
    """Which of them a job left, and what it says."""
    [name] = [name for name in (SUCCESS, FAILED) if (folder / name).exists()]
    return name, json.loads((folder / name).read_text())


def left_of(job: int) -> list[str]:
    """Processes and folders."""
    found = [str(path) for path in Path("/tmp").glob(f"r{job}-*")]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"SLURM_JOB_ID={job}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.parametrize("name", REQUESTS)
def test_the_script_is_as_it_was(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "neighbors of a"
    text = script_with_ray(COMMAND, read_request(REQUESTS[name]), folder, name="neighbors")
    told = text.replace(shlex.quote(sys.executable), "PYTHON").replace(str(folder), "FOLDER")
    assert told + "\n" == (GOLDEN / name).read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_script_needs_no_torch_no_ray_and_no_slurm(tmp_path: Path) -> None:
    program = (
        "import sys; from cluster.ray_slurm import *; from cluster.slurm import read_request\n"
        f"script_with_ray(['a'], read_request('time=5'), Path({str(tmp_path)!r}))\n"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    env = {**os.environ, "PATH": "/nowhere"}
    assert subprocess.check_output([sys.executable, "-c", program], env=env, text=True) == "set()\n"
    assert list(tmp_path.iterdir()) == []


def test_the_exit_code_of_the_script_is_the_markers(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text('#!/bin/sh\n[ -z "$MARKER" ] || echo "{}" > "$MARKER"; exit $CODE\n')
    (tmp_path / "srun").chmod(stat.S_IRWXU)
    text = script_with_ray(["a", "\nexit 77\n"], read_request("time=5"), tmp_path / "a b")

    def code(marker: str, of_srun: int) -> int:
        for old in (SUCCESS, FAILED):
            (tmp_path / "a b" / old).write_text("{}")
        settings = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CODE": str(of_srun), "SLURM_JOB_ID": f"none{os.getpid()}"}
        settings |= {"MARKER": str(tmp_path / "a b" / marker) if marker else ""}
        return subprocess.run(["bash", "-c", text], env=settings, check=False).returncode

    (tmp_path / "a b").mkdir()
    assert code(SUCCESS, 0) == 0
    assert code(SUCCESS, 137) == 0  # a node was lost
    assert code(FAILED, 0) == 1
    assert code("", 0) == 1
    assert "without a word" in marker(tmp_path / "a b")[1]["reason"]
    assert code("", 255) == 255  # back in the queue: nothing is decided
    assert not (tmp_path / "a b" / FAILED).exists()


def test_submission_leaves_what_the_job_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    (tmp_path / "sbatch").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / SUCCESS).touch()
    assert submit_with_ray(COMMAND, read_request("time=5"), folder, name="neighbors") == "7"
    assert "--job-name=neighbors\n" in (folder / "7_submission.sh").read_text()
    assert {file.name for file in folder.iterdir()} == {"7_submission.sh", "7_submitted.pkl", "ray-token", "job"}
    assert stat.S_IMODE((folder / "ray-token").stat().st_mode) == 0o600
    token = (folder / "ray-token").read_text()
    assert submit_with_ray(COMMAND, read_request("time=5"), folder) == "7"
    assert (folder / "ray-token").read_text() == token
    task = pickle.loads((folder / "7_submitted.pkl").read_bytes()).function
    assert task == RayJob(tuple(COMMAND), folder, 600.0)
    assert task.checkpoint().function == task  # after a requeue the same again


def test_a_job_that_is_in_the_queue_is_not_submitted_twice_and_a_refused_one_leaves_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def play(name: str, does: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)

    def submit() -> str:
        return submit_with_ray(COMMAND, read_request("time=5"), tmp_path / "job")

    play("squeue", 'echo "$@"')
    play("sbatch", "echo no such partition >&2; exit 1")
    with pytest.raises(ClusterError, match="no such partition"):
        submit()
    assert list((tmp_path / "job").iterdir()) == []
    play("sbatch", "echo Submitted batch job 7")
    assert submit() == "7"
    with pytest.raises(ClusterUsageError, match="its job 7 is still in the queue or running"):
        submit()
    play("squeue", "exit 1")
    assert submit() == "7"


def test_a_command_finds_all_nodes(tmp_path: Path, job: int, start: Start) -> None:
    nodes = [start([sys.executable, "-c", LOOK], rank=rank, nodes=2) for rank in (1, 0)]
    printed = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    name, about = marker(tmp_path)
    assert (name, about["exit_code"], about["reason"]) == (SUCCESS, 0, None)
    assert about["last_lines"] == ["['127.0.0.1', '127.0.0.2'] 2.0 token"]
    assert about["last_lines"][0] in printed[1]  # as it came
    assert left_of(job) == []


def test_a_command_that_fails_says_how(tmp_path: Path, job: int, start: Start) -> None:
    (tmp_path / SUCCESS).touch()
    head = start(["sh", "-c", "echo one; echo two >&2; sleep 100 & exit 3"])
    printed = head.communicate(timeout=300)[0]
    assert head.returncode == 1
    assert printed.endswith("127.0.0.1: the command ended with exit code 3\n")
    name, about = marker(tmp_path)
    assert (name, about["exit_code"], about["last_lines"]) == (FAILED, 3, ["one", "two"])
    assert (about["job"], about["restarts"]) == (job, 0)
    assert left_of(job) == []


def test_a_command_may_save_when_time_is_over(tmp_path: Path, job: int, start: Start) -> None:
    save = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit' TERM; touch {tmp_path}/began; while :; do sleep 0.1; done"
    head = start(["sh", "-c", save])
    deadline = time.monotonic() + 300
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    head.send_signal(signal.SIGUSR2)
    head.communicate(timeout=300)
    assert head.returncode == 1
    assert (tmp_path / "saved").exists()
    assert marker(tmp_path)[1]["reason"].startswith("stopped by SIGUSR2")
    assert left_of(job) == []


def test_a_node_that_does_not_come_is_named(tmp_path: Path, start: Start) -> None:
    head = start(["touch", str(tmp_path / "began")], nodes=2, wait_s=1.0)
    head.communicate(timeout=300)
    assert head.returncode == 1
    assert marker(tmp_path)[1]["reason"] == "1 of 2 nodes have not joined Ray in 1 s: 127.0.0.2"
    assert not (tmp_path / "began").exists()


def test_a_head_that_does_not_come_is_named(tmp_path: Path, job: int, start: Start) -> None:
    (tmp_path / FAILED).write_text(json.dumps({"job": job, "restarts": 7}))  # an earlier start says nothing about this
    node = start(["true"], rank=1, nodes=2, wait_s=1.0)
    printed = node.communicate(timeout=300)[0]
    assert node.returncode == 1
    port = 20_000 + job % 12_000
    assert printed == f"127.0.0.2: no answer from Ray's head at 127.0.0.1:{port} in 1 s\n"


def test_a_head_that_cannot_start_says_why_and_nobody_waits_for_it(tmp_path: Path, job: int, start: Start) -> None:
    port = 20_000 + job % 12_000
    with socket.socket() as taken:
        taken.bind(("", port))
        node, head = (start(["true"], rank=rank, nodes=2, wait_s=600.0) for rank in (1, 0))
        head.communicate(timeout=300)
        node.communicate(timeout=300)  # less than it would wait
    assert (head.returncode, node.returncode) == (1, 0)
    assert f"port {port}, which job {job} would use, is taken" in marker(tmp_path)[1]["reason"]


def test_a_command_that_is_not_there_is_named_before_ray_starts(tmp_path: Path, start: Start) -> None:
    start(["spyder", "neighbors"]).communicate(timeout=300)
    assert marker(tmp_path)[1]["reason"] == "spyder: no such program on 127.0.0.1"
