"""A job of ranks: its script is as it was, the right rank is blamed, and it starts again where that may help."""

from __future__ import annotations

import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.errors import ClusterError, ClusterUsageError
from cluster.jobs import process, slurm_job
from cluster.jobs.command import RankCommand, RayCommand, rank_env
from cluster.jobs.history import History
from cluster.jobs.process import JobProcess, Leader
from cluster.jobs.saves import newest_in
from cluster.jobs.slurm_job import SlurmJob, job_script, submit_job
from cluster.jobs.submission import Submission
from cluster.jobs.verdict import last_error
from cluster.slurm.place import SlurmTask
from cluster.slurm.queue import UNKNOWN, end_job, job_state, time_left_s
from cluster.slurm.request import read_request
from cluster.slurm.signals import REQUEUED, JobSignals

if TYPE_CHECKING:
    from tests.conftest import Programs

GOLDEN = Path(__file__).parent
NO_LEADER = Leader(0, lambda: None)
LOST = "rank 0 on n1 ended without a word: killed, or the node was lost"
SEARCH = ("spider", "neighbors", "shards/target", "shards/a set", "--ray", "auto")
COMMAND = ("spider", "train", "runs/a run/slurm/submitted.yaml", "--run", "runs/a run")
SCRIPTS = {
    "ranks_1_node.sbatch": ("time=30", ()),
    "ranks_2_nodes_8_gpus.sbatch": (
        (
            "nodes=2,gpus_per_node=8,partition=gpu,time=2:00:00,cpus_per_task=12,max_failures=5,"
            "setup=[module load cuda/12.4, source /shared/venv/bin/activate]"
        ),
        ("6", "7"),
    ),
}

RAY_SCRIPTS = {
    "ray_1_node.sbatch": "time=30",
    "ray_2_nodes_8_gpus.sbatch": (
        "nodes=2,gpus_per_node=8,partition=gpu,time=2:00:00,cpus_per_task=96,mem_gb=0,account=lab,exclusive=true,"
        "setup=[module load cuda/12.4, source /shared/venv/bin/activate]"
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_as_it_was(tmp_path: Path, name: str) -> None:
    (text, behind), folder = SCRIPTS[name], tmp_path / "a run" / "slurm"
    run = RankCommand(COMMAND, Path.cwd(), folder.parent / "checkpoints", folder.parent / "stacks")
    made = job_script(run, read_request(text), folder, name="spider-a run", behind=behind)
    found = made.replace(shlex.quote(sys.executable), "PYTHON").replace(str(folder.parent), "RUN")
    assert found + "\n" == (GOLDEN / name).read_text()
    assert subprocess.run(["bash", "-n"], input=made, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", RAY_SCRIPTS)
def test_the_script_of_a_driver_on_ray_is_as_it_was(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "neighbors of a"
    run = RayCommand(SEARCH, Path.cwd(), folder / "progress")
    made = job_script(run, read_request(RAY_SCRIPTS[name]), folder, name="neighbors")
    found = made.replace(shlex.quote(sys.executable), "PYTHON").replace(str(folder), "FOLDER")
    assert found + "\n" == (GOLDEN / name).read_text()
    assert subprocess.run(["bash", "-n"], input=made, text=True, check=False).returncode == 0


def test_a_driver_on_ray_has_one_process_on_each_node(tmp_path: Path, programs: Programs) -> None:
    programs.play("sbatch", "echo Submitted batch job 7")
    run = RayCommand(("true",), tmp_path)
    with pytest.raises(ClusterUsageError, match="tasks_per_node: one Ray on every node"):
        job_script(run, read_request("time=5,tasks_per_node=2"), tmp_path / "job", name="x")
    made = submit_job(
        run, read_request("time=5,nodes=2,gpus_per_node=8"), tmp_path / "job", name="x", packages=["cluster"]
    )
    assert (made.nodes, made.tasks_per_node) == (2, 1)
    [submitted] = History(tmp_path / "job").read()
    assert submitted["ranks"] == 2
    task = pickle.loads((tmp_path / "job" / "7_submitted.pkl").read_bytes()).function
    assert task.run == run
    assert task.checkpoint().function == task  # after a requeue the same again


def test_a_break_in_the_command_does_not_reach_the_shell(tmp_path: Path) -> None:
    run = RankCommand(("echo", "a\nexit 77\r\nexit 78"), tmp_path)
    lines = job_script(run, read_request("time=5"), tmp_path, name="x").splitlines()
    assert [line for line in lines if "77" in line or "78" in line] == ["# the command: echo 'a exit 77 exit 78'"]


def test_a_script_needs_no_torch_and_no_slurm_and_writes_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from cluster.jobs.command import RankCommand; from cluster.jobs.slurm_job import *\n"
        "from cluster.slurm.request import read_request\n"
        f"place = Path({str(tmp_path)!r}) / 'job'\n"
        "job_script(RankCommand(('a',), place), read_request('time=5'), place, name='a')\n"
        "print('torch' in sys.modules)"
    )
    env = {**os.environ, "PATH": "/nowhere"}
    assert subprocess.check_output([sys.executable, "-c", program], env=env, text=True) == "False\n"
    assert list(tmp_path.iterdir()) == []


def test_the_lines_after_srun_decide_about_the_job(tmp_path: Path, programs: Programs) -> None:
    programs.play("srun", "exit $CODE")
    programs.play("squeue", f"cat {tmp_path}/state")
    programs.play("scontrol", "exit $REFUSED")
    state = tmp_path / "state"
    state.write_text("RUNNING|n1\n")
    text = job_script(RankCommand(("a",), tmp_path), read_request("time=5"), tmp_path, name="x")

    def code(of_srun: int, start: int, refused: int = 0) -> int:
        told = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(start)}
        told |= {"CODE": str(of_srun), "REFUSED": str(refused), "PYTHONPATH": str(Path(slurm_job.__file__).parents[2])}
        return subprocess.run(["bash", "-c", text], env=told, capture_output=True, check=False).returncode

    history = History(tmp_path)
    assert code(255, 0) == 255  # back in the queue already: nothing is decided
    assert history.read() == []
    for start in (1, 2):
        history.add("started", job="7", start=start, nodes=["n1"], ranks=1, newest=None)
        # Nobody has said how it ended: a node was lost
        assert code(1, start, refused=start - 1) == {1: 255, 2: 1}[start]
    assert programs.calls("scontrol")[0] == "requeue 7"
    last = history.read()[-1]
    assert last.event == "stopped"
    assert last["reason"].startswith("not started again")
    programs.play("scontrol", "echo 'Job is pending execution for job 7' >&2; exit 1")
    history.add("submitted", job="7", nodes=1, ranks=1)
    history.add("started", job="7", start=3, nodes=["n1"], ranks=1, newest=None)
    assert code(1, 3) == 255  # Slurm itself was faster
    asked = len(programs.calls("scontrol"))
    state.unlink()  # which is no sign of an end
    history.add("started", job="7", start=4, nodes=["n1"], ranks=1, newest=None)
    assert code(1, 4) == 255
    assert len(programs.calls("scontrol")) == asked + 1
    state.write_text("COMPLETING|n1\n")
    history.add("started", job="7", start=5, nodes=["n1"], ranks=1, newest="1-kimg")
    assert code(1, 5) == 1
    assert len(programs.calls("scontrol")) == asked + 1
    last = history.read()[-1]
    assert (last.event, last["nodes"], last["reason"]) == ("lost", ["n1"], LOST)


def test_submission_leaves_what_the_job_needs(tmp_path: Path, programs: Programs) -> None:
    programs.play("sbatch", "echo Submitted batch job 7")
    programs.play("squeue", "echo 'RUNNING|n[1-2]'")
    folder, run = tmp_path / "job", RankCommand(COMMAND, tmp_path)
    request = read_request("time=5,nodes=2,tasks_per_node=2")
    made = submit_job(run, request, folder, name="x", packages=["cluster"], origin={"commit": "c"}, behind=["6"])
    assert Submission.read(folder) == made
    assert (made.job, made.nodes, made.tasks_per_node, made.command) == ("7", 2, 2, list(COMMAND))
    assert made.log(folder, 3) == folder / "7_3_log.out"
    assert (Path(made.code) / "cluster" / "jobs" / "slurm_job.py").read_bytes() == Path(slurm_job.__file__).read_bytes()
    text = (folder / "7_submission.sh").read_text()
    assert f"PYTHONPATH={made.code}" in text
    assert "#SBATCH --dependency=afterok:6\n" in text
    task = pickle.loads((folder / "7_submitted.pkl").read_bytes()).function
    assert task == SlurmJob(run, folder, 120, max_failures=3)
    assert task.checkpoint().function == task  # after a requeue the same again
    [event] = History(folder).read()
    assert (event.event, event["ranks"]) == ("submitted", 4)
    with pytest.raises(ClusterUsageError, match=f"^{folder}: its job 7 is still in the queue or running$"):
        submit_job(run, request, folder, name="x", packages=["cluster"])
    programs.play("squeue", "true")
    submit_job(run, request, folder, name="x", packages=["cluster"])


def test_the_newest_save_is_the_last_by_name(tmp_path: Path) -> None:
    assert newest_in(None) is None
    assert newest_in(tmp_path / "saves") is None
    for name in ("000002-kimg", "000010-kimg", "quarantine", ".000011-kimg"):
        (tmp_path / "saves" / name).mkdir(parents=True)
    assert newest_in(tmp_path / "saves") == "000010-kimg"


def test_a_rank_is_told_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MINE", "stays")
    place = SlurmTask(7, 0, 3, 4, 1, ("n1", "n2"), "n2", 12, 8)
    env = rank_env(place)
    expected = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n1"}
    assert {**env, **expected, "OMP_NUM_THREADS": "12", "MINE": "stays"} == env
    again = rank_env(SlurmTask(7, 1, 0, 4, 0, ("n1", "n2"), "n1", 12, 8))
    assert env["MASTER_PORT"] != again["MASTER_PORT"]  # who is left of a start may still listen
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert rank_env(place)["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("own_address", "set_before", "interface"),
    [("127.0.1.1", None, "lo"), ("127.0.1.1", "ib0", "ib0"), ("10.0.0.7", None, None)],
)
def test_gloo_does_not_listen_where_no_other_node_finds_it(
    monkeypatch: pytest.MonkeyPatch, own_address: str, set_before: str | None, interface: str | None
) -> None:
    monkeypatch.setattr("socket.gethostbyname", lambda name: own_address)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if set_before is not None:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", set_before)
    env = rank_env(SlurmTask(7, 0, 0, 2, 0, ("n1", "127.0.0.1"), "n1", 1, 0))
    assert env.get("GLOO_SOCKET_IFNAME") == interface


def test_ports_stay_below_those_of_the_system() -> None:
    ports = [
        int(rank_env(SlurmTask(job, 30, 0, 2, 0, ("a",), "a", 1, 0))["MASTER_PORT"]) for job in range(0, 10**7, 997)
    ]
    assert (min(ports) >= 20_000, max(ports) < 32_000) == (True, True)


def test_one_rank_is_no_world() -> None:
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT"} & set(rank_env(SlurmTask(7, 0, 0, 1, 0, ("n",), "n", 1, 0)))


# What squeue says when it is asked for the first time, the second, ...; in the end it knows no such job
_IN_TURN = """n=$(($(cat "$0.asked" 2>/dev/null) + 1)); echo $n > "$0.asked"; sed -n "${n}p" << 'end'
SUSPENDED|n1
RUNNING|n1
COMPLETING|n1
end"""


def test_a_suspended_job_goes_on_so_that_it_can_save_or_is_left_alone(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.slurm.queue._AGAIN_S", 0)
    programs.play("squeue", "echo 'SUSPENDED|n1'")
    programs.play("scancel")
    programs.play("scontrol", "echo 'Access denied' >&2; exit 1")
    with pytest.raises(
        ClusterError, match=r"^job 7 is suspended, and cannot save before it is resumed: Access denied;"
    ):
        end_job("7")
    assert programs.calls("scancel") == []
    programs.play("scontrol")
    programs.play("squeue", _IN_TURN)
    end_job("7")
    assert programs.calls("scontrol")[-1] == "resume 7"
    assert programs.calls("scancel") == ["--signal=TERM 7"] * 2  # the first may be lost on nodes that do not know yet


def test_a_refusal_to_end_is_slurms_own_line(programs: Programs) -> None:
    programs.play("squeue", "echo 'RUNNING|n1'")
    programs.play("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"^scancel 7: scancel: error: Access denied$"):
        end_job("7")


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [("1:05", 65), ("59:59", 3599), ("2:00:01", 7201), ("3-01:00:00", 3 * 86400 + 3600), ("0:00", 0)],
)
def test_the_time_that_is_left_has_slurms_forms(programs: Programs, answer: str, seconds: float) -> None:
    programs.play("squeue", f"echo {answer}")
    assert time_left_s("7") == seconds


@pytest.mark.parametrize("does", ["echo UNLIMITED", "echo INVALID", "exit 1", "echo"])
def test_a_time_that_slurm_does_not_say_is_none(programs: Programs, does: str) -> None:
    programs.play("squeue", does)
    assert time_left_s("7") is None


@pytest.mark.parametrize(
    ("does", "state"),
    [
        ("echo 'RUNNING|n[1-2]'", ("RUNNING", "n[1-2]")),
        ("echo 'PENDING|(Resources)'", ("PENDING", "Resources")),
        ("", None),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", None),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", UNKNOWN),
    ],
)
def test_a_state_is_what_squeue_says(programs: Programs, does: str, state: tuple[str, str] | None) -> None:
    programs.play("squeue", does)
    assert job_state("7") == state


@pytest.mark.parametrize(("left", "why"), [("3:00", "time limit"), ("1:00:00", "preemption"), ("UNLIMITED", None)])
def test_the_end_of_time_is_told_from_preemption(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, left: str, why: str | None
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    programs.play("squeue", f"echo {left}")
    assert slurm_job._why_preempted(120) == (why or "time limit or preemption")


@pytest.mark.parametrize(
    ("lines", "code", "expected"),
    [
        (["step 1", "error: no such shard", ""], 1, (True, "no such shard")),
        (["error (rank 3): not finite", "warning: x"], 1, (True, "not finite")),
        (["Traceback (most recent call last):", "ValueError: bad", " "], 1, (False, "ValueError: bad")),
        (["step 1"], -signal.SIGKILL, (False, "killed by SIGKILL")),
        ([], 3, (False, "exit code 3")),
    ],
)
def test_what_a_command_said_last(lines: list[str], code: int, expected: tuple[bool, str]) -> None:
    assert last_error(lines, code) == expected


def alone(
    folder: Path, command: str, *, grace_s: float = 60.0, preempted: bool = False, leader: Leader = NO_LEADER
) -> JobProcess:
    """Rank 0 of a job of one; `preempted`: as if the signal came when the command has begun."""
    signals = JobSignals()

    def signal_comes() -> None:
        while not (folder / "began").exists():
            time.sleep(0.02)
        signals.preempted_at = time.monotonic()

    if preempted:
        threading.Thread(target=signal_comes, daemon=True).start()
    place = SlurmTask(7, 0, 0, 1, 0, ("n1",), "n1", 1, 0)
    History(folder).add("submitted", job="7", nodes=1, ranks=1)
    return JobProcess(RankCommand(("sh", "-c", command), folder), folder, place, signals, grace_s, leader)


def requeued() -> None:
    raise SystemExit(255)


@pytest.fixture(autouse=True)
def spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank ends all that its process has started: here, also the ranks that other tests keep."""
    monkeypatch.setattr(process.children, "kill_all", lambda: None)
    monkeypatch.setattr(process.children, "adopt_orphans", lambda: None)


def test_what_does_not_save_in_time_is_killed_and_starts_again(tmp_path: Path) -> None:
    rank = alone(tmp_path, "trap '' TERM; touch began; exec sleep 60", grace_s=1.0, preempted=True)
    with pytest.raises(SystemExit) as stop:
        rank.work(lambda: "time limit", requeued)
    assert stop.value.code == 255
    last = History(tmp_path).read()[-1]
    assert (last.event, last["saved"], last["reason"]) == ("requeued", False, "time limit")


def test_what_saves_in_time_is_told_so(tmp_path: Path) -> None:
    rank = alone(tmp_path, "trap 'exit 130' TERM; touch began; while :; do sleep 0.05; done", preempted=True)
    with pytest.raises(SystemExit):
        rank.work(lambda: "preemption", requeued)
    last = History(tmp_path).read()[-1]
    assert (last.event, last["saved"], last["grace_s"]) == ("requeued", True, 60.0)


def test_a_job_that_was_cancelled_while_its_nodes_were_made_ready_runs_nothing(tmp_path: Path) -> None:
    rank = alone(tmp_path, f"touch {tmp_path}/ran")
    History(tmp_path).add("cancelled", job="7", start=0)
    rank.work(lambda: "preemption", requeued)
    assert not (tmp_path / "ran").exists()
    assert [event.event for event in History(tmp_path).read()][-2:] == ["cancelled", "stopped"]


def test_a_cancelled_job_is_not_requeued_by_a_preemption_as_well(tmp_path: Path) -> None:
    rank = alone(tmp_path, "trap 'exit 130' TERM; touch began; while :; do sleep 0.05; done", preempted=True)

    def cancelled_meanwhile() -> str:
        History(tmp_path).add("cancelled", job="7", start=0)
        return "preemption"

    rank.work(cancelled_meanwhile, requeued)
    assert [event.event for event in History(tmp_path).read()][-2:] == ["cancelled", "stopped"]


@pytest.mark.parametrize("killed", [True, False])
def test_a_rank_that_is_to_end_acts_for_a_script_that_was_killed_and_at_once(tmp_path: Path, killed: bool) -> None:
    with subprocess.Popen(["sleep", "1000"]) as script:
        leader = Leader(script.pid, (tmp_path / "acted").touch)
        command = "trap 'sleep 0.3; ls > there; exit 130' TERM; touch began; while :; do sleep 0.05; done"
        rank = alone(tmp_path, command, leader=leader)

        def script_dies() -> None:
            while not (tmp_path / "began").exists():
                time.sleep(0.02)
            if killed:
                script.kill()
                script.wait()
            rank.signals.cancelled = True  # by which Slurm ends the tasks

        threading.Thread(target=script_dies, daemon=True).start()
        rank.work(lambda: "preemption", requeued)
        script.kill()
    assert ("acted" in (tmp_path / "there").read_text().split()) is killed  # while the command was saving


def test_a_job_without_its_script_goes_back_into_the_queue(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"JOB_ID": "7", "PROCID": "0", "NTASKS": "1", "LOCALID": "0", "CPUS_ON_NODE": "1", "JOB_NODELIST": "n1"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    programs.play("scontrol")
    history, job = History(tmp_path), SlurmJob(RankCommand(("a",), tmp_path), tmp_path, 120, max_failures=1)
    history.add("submitted", job="7", nodes=1, ranks=1)
    for start in (0, 1):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(start))
        history.add("started", job="7", start=start, nodes=["n1"], ranks=1, newest=None)
        job._go_on_alone()
    reasons = [(event["reason"], event["again"]) for event in history.read() if event.event == "failed"]
    killed = "the job's script was killed on n1"
    assert reasons == [(killed, True), (f"{killed}; 1 starts in a row saved nothing new (max_failures=1)", False)]
    assert programs.calls("scontrol") == ["requeue 7"]


def test_an_exit_code_of_255_is_no_requeue(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        alone(tmp_path, "exit 255").work(lambda: "preemption", requeued)
    assert stop.value.code == 1


def test_a_log_on_a_full_disk_decides_nothing(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was killed goes back into the queue, though its last lines cannot be printed."""
    programs.play("squeue", "echo 'RUNNING|n1'")
    programs.play("scontrol")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    history = History(tmp_path)
    history.add("submitted", job="7", nodes=1, ranks=1)
    history.add("started", job="7", start=0, nodes=["n1"], ranks=1, newest=None)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cluster.jobs.slurm_job", str(tmp_path), "3"]
        ended = subprocess.run(command, stdout=full, stderr=full, cwd=Path(__file__).parents[3], check=False)
    assert ended.returncode == REQUEUED
    assert any("requeue" in call for call in programs.calls("scontrol"))
