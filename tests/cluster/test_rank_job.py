"""A job of ranks: its script is as it was, the right rank is blamed, and it starts again where that may help."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import rank_job
from cluster.errors import ClusterError, ClusterUsageError
from cluster.history import History
from cluster.rank_job import (
    Ending,
    RankCommand,
    RankJob,
    Submission,
    cancel,
    judge,
    newest_in,
    rank_env,
    ranks_script,
    read_endings,
    settle,
    start_folder,
    submit_ranks,
)
from cluster.slurm import SlurmTask, end_job, job_state, read_request, time_left_s

if TYPE_CHECKING:
    from tests.conftest import Programs

GOLDEN = Path(__file__).parent
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
KILLED, ABORTED, TERMINATED = -signal.SIGKILL, -signal.SIGABRT, -signal.SIGTERM


def ending(rank: int = 0, code: int = 0, error: str = "", **more: object) -> Ending:
    """Of a rank on one of the nodes n1 (ranks 0, 1) and n2."""
    usual = {"told": False, "preempted": False, "cancelled": False, "hung": None, "waited": False}
    return Ending(**{"rank": rank, "node": f"n{1 + rank // 2}", "code": code, "error": error, **usual, **more})


def told(rank: int, code: int, error: str) -> Ending:
    return ending(rank, code, error, told=True)


class Job:
    """A history, and the endings of the ranks of each start."""

    def __init__(self, folder: Path, max_failures: int = 3) -> None:
        self.folder, self.history, self.start, self.max_failures = folder, History(folder), -1, max_failures

    def submit(self) -> None:
        self.history.add("submitted", job="7", nodes=2, ranks=2)

    def begin(self, newest: str | None = None) -> None:
        self.start += 1
        self.history.add("started", job="7", start=self.start, nodes=["n1", "n2"], ranks=2, newest=newest)

    def end(self, *endings: Ending, newest: str | None = None) -> bool:
        folder = start_folder(self.folder, 7, self.start)
        folder.mkdir()
        for each in endings:
            (folder / f"rank-{each.rank}.json").write_text(json.dumps(asdict(each)))
        return settle(self.history, "7", self.start, self.max_failures, newest)

    def die(self, newest: str | None = None) -> bool:
        """A start in which a rank was killed."""
        self.begin(newest)
        return self.end(ending(0, TERMINATED, cancelled=True), ending(1, KILLED, "killed by SIGKILL"), newest=newest)

    @property
    def last(self) -> tuple[str, str | None]:
        event = self.history.read()[-1]
        return event.event, event["reason"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(tmp_path)
    made.submit()
    return made


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_as_it_was(tmp_path: Path, name: str) -> None:
    (text, behind), folder = SCRIPTS[name], tmp_path / "a run" / "slurm"
    run = RankCommand(COMMAND, Path.cwd(), folder.parent / "checkpoints", folder.parent / "stacks")
    made = ranks_script(run, read_request(text), folder, name="spider-a run", behind=behind)
    found = made.replace(shlex.quote(sys.executable), "PYTHON").replace(str(folder.parent), "RUN")
    assert found + "\n" == (GOLDEN / name).read_text()
    assert subprocess.run(["bash", "-n"], input=made, text=True, check=False).returncode == 0


def test_a_break_in_the_command_does_not_reach_the_shell(tmp_path: Path) -> None:
    run = RankCommand(("echo", "a\nexit 77\r\nexit 78"), tmp_path)
    lines = ranks_script(run, read_request("time=5"), tmp_path, name="x").splitlines()
    assert [line for line in lines if "77" in line or "78" in line] == ["# the command: echo 'a exit 77 exit 78'"]


def test_a_script_needs_no_torch_and_no_slurm_and_writes_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from cluster.rank_job import *; from cluster.slurm import read_request\n"
        f"place = Path({str(tmp_path)!r}) / 'job'\n"
        "ranks_script(RankCommand(('a',), place), read_request('time=5'), place, name='a')\n"
        "print('torch' in sys.modules)"
    )
    env = {**os.environ, "PATH": "/nowhere"}
    assert subprocess.check_output([sys.executable, "-c", program], env=env, text=True) == "False\n"
    assert list(tmp_path.iterdir()) == []


def test_the_lines_after_srun_decide_about_the_job(tmp_path: Path, programs: Programs) -> None:
    programs.play("srun", "exit $CODE")
    programs.play("scontrol", "exit $REFUSED")
    text = ranks_script(RankCommand(("a",), tmp_path), read_request("time=5"), tmp_path, name="x")

    def code(of_srun: int, start: int, refused: int = 0) -> int:
        told = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(start)}
        told |= {"CODE": str(of_srun), "REFUSED": str(refused), "PYTHONPATH": str(Path(rank_job.__file__).parents[1])}
        return subprocess.run(["bash", "-c", text], env=told, capture_output=True, check=False).returncode

    made = Job(tmp_path)
    assert code(255, 0) == 255  # back in the queue already: nothing is decided
    assert made.history.read() == []
    made.begin()
    made.end(ending(0), ending(1))
    made.begin()
    assert code(1, 1) == 255
    assert programs.calls("scontrol") == ["requeue 7"]
    assert made.last[0] == "failed"
    assert code(1, 2, refused=1) == 1
    assert made.last[0] == "stopped"
    assert made.last[1].startswith("not started again")


def test_submission_leaves_what_the_job_needs(tmp_path: Path, programs: Programs) -> None:
    programs.play("sbatch", "echo Submitted batch job 7")
    programs.play("squeue", "echo 'RUNNING|n[1-2]'")
    folder, run = tmp_path / "job", RankCommand(COMMAND, tmp_path)
    request = read_request("time=5,nodes=2,tasks_per_node=2")
    made = submit_ranks(run, request, folder, name="x", packages=["cluster"], origin={"commit": "c"}, behind=["6"])
    assert Submission.read(folder) == made
    assert (made.job, made.nodes, made.tasks_per_node, made.command) == ("7", 2, 2, list(COMMAND))
    assert made.log(folder, 3) == folder / "7_3_log.out"
    assert (Path(made.code) / "cluster" / "rank_job.py").read_bytes() == Path(rank_job.__file__).read_bytes()
    text = (folder / "7_submission.sh").read_text()
    assert f"PYTHONPATH={made.code}" in text
    assert "#SBATCH --dependency=afterok:6\n" in text
    task = pickle.loads((folder / "7_submitted.pkl").read_bytes()).function
    assert task == RankJob(run, folder, 120)
    assert task.checkpoint().function == task  # after a requeue the same again
    [event] = History(folder).read()
    assert (event.event, event["ranks"]) == ("submitted", 4)
    with pytest.raises(ClusterUsageError, match=f"^{folder}: its job 7 is still in the queue or running$"):
        submit_ranks(run, request, folder, name="x", packages=["cluster"])
    programs.play("squeue", "exit 1")
    submit_ranks(run, request, folder, name="x", packages=["cluster"])


@pytest.mark.parametrize("code", [1, 2])
def test_an_error_that_was_told_is_lasting(code: int) -> None:
    others = [ending(0, 1, "ValueError: x"), ending(1, KILLED, "killed by SIGKILL")]
    cause, reason, lasting = judge([*others, told(3, code, "shard 7 is gone")], 4)
    assert (cause and cause.rank, reason, lasting) == (3, "shard 7 is gone", True)


@pytest.mark.parametrize(
    ("endings", "rank", "reason"),
    [
        # Those that lost a rank say so, and end with exit code 3
        ([told(0, 3, "rank 1 is gone"), ending(1, KILLED, "killed by SIGKILL")], 1, "on n1 was killed by SIGKILL"),
        ([ending(1, 1, "ValueError: x"), ending(2, ABORTED, "killed by SIGABRT")], 2, "on n2 was killed by SIGABRT"),
        ([told(0, 3, "rank 2 is gone"), ending(2, 1, "ValueError: x")], 2, "on n2: ValueError: x"),
        ([told(1, 3, "the disk is full"), ending(0, TERMINATED, cancelled=True)], 1, "on n1: the disk is full"),
        # What was asked to end died of that
        ([ending(0, TERMINATED, "killed by SIGTERM", cancelled=True), ending(3, 7, "x")], 3, "on n2: x"),
        ([ending(0, 130, "stopped", cancelled=True), ending(3, 7, "x")], 3, "on n2: x"),
    ],
)
def test_the_rank_that_failed_first_is_named(endings: list[Ending], rank: int, reason: str) -> None:
    for order in (endings, endings[::-1]):
        cause, found, lasting = judge(order, 4)
        assert (cause and cause.rank, lasting) == (rank, False)
        assert found == f"rank {rank} {reason}"


def test_a_rank_that_hangs_is_named_and_not_those_that_wait_for_it() -> None:
    waiting = [ending(rank, 1, hung="all_reduce (x.py:1)", waited=True) for rank in (0, 1, 3)]
    stuck = ending(2, 1, hung="read (shards/dataset.py:7)")
    found = (stuck, "rank 2 on n2 hung in read (shards/dataset.py:7); 3 others waited for it", False)
    assert judge([*waiting, stuck], 4) == found
    assert judge([stuck, *waiting, ending(4, KILLED, "killed by SIGKILL")], 5) == found
    assert judge(waiting, 3) == (waiting[0], "rank 0 on n1 hung in all_reduce (x.py:1); 2 others waited for it", False)


def test_ranks_that_said_nothing_are_named() -> None:
    lost = "ended without a word: killed, or its node was lost"
    assert judge([ending(0), ending(2, 130, preempted=True)], 4) == (None, f"rank 1, 3 {lost}", False)
    assert judge([], None) == (None, f"rank ? {lost}", False)


def test_a_start_in_which_all_ranks_ended_well_is_the_last(job: Job) -> None:
    job.begin()
    assert not job.end(ending(0), ending(1))
    assert job.last == ("finished", None)


def test_a_rank_without_a_word_is_no_finish(job: Job) -> None:
    job.begin()
    assert job.end(ending(0))
    assert job.last[0] == "failed"


@pytest.mark.parametrize(
    ("endings", "reason"),
    [
        ([ending(0, 130), ending(1, 130)], "stopped by a signal"),
        ([ending(0, 130, cancelled=True), ending(1, 0)], "told to end, by Slurm or by hand"),
        ([ending(0, TERMINATED, cancelled=True), ending(1, 130)], "told to end, by Slurm or by hand"),
    ],
)
def test_a_start_that_was_asked_to_stop_is_no_failure(job: Job, endings: list[Ending], reason: str) -> None:
    job.begin()
    assert not job.end(*endings)
    assert job.last == ("stopped", reason)


def test_a_cancelled_job_does_not_start_again_whatever_its_ranks_did(job: Job) -> None:
    job.begin()
    job.history.add("cancelled", job="7", start=0)
    assert not job.end(ending(0, KILLED, "killed by SIGKILL"), told(1, 1, "no"))
    assert job.last == ("stopped", "cancelled")


@pytest.mark.parametrize("said", ["requeued", "stopped"])
def test_what_rank_0_has_said_is_not_said_again(job: Job, said: str) -> None:
    job.begin()
    job.history.add(said, job="7", start=0, reason="time limit")
    assert not job.end(ending(0, KILLED))
    assert job.last == (said, "time limit")


def test_a_told_error_is_the_end(job: Job) -> None:
    job.begin()
    assert not job.end(told(0, 2, "batch=7: no"), ending(1, TERMINATED, cancelled=True))
    event = job.history.read()[-1]
    assert (event.event, event["reason"], event["rank"], event["again"]) == ("failed", "batch=7: no", 0, False)


def test_failures_that_save_nothing_are_counted(job: Job) -> None:
    assert [job.die() for _ in range(4)] == [True, True, True, False]
    assert job.last == (
        "failed",
        "rank 1 on n1 was killed by SIGKILL; 4 starts in a row saved nothing (max_failures=3)",
    )


def test_a_save_resets_the_count(job: Job) -> None:
    assert [job.die("000001-kimg") for _ in range(3)] == [True] * 3
    assert [job.die("000002-kimg") for _ in range(4)] == [True, True, True, False]


def test_a_submission_resets_the_count(job: Job) -> None:
    assert [job.die() for _ in range(4)][-1] is False
    job.submit()
    assert job.die()


def test_a_preemption_between_failures_resets_nothing(job: Job) -> None:
    assert [job.die() for _ in range(3)] == [True] * 3
    job.begin()
    job.history.add("requeued", job="7", start=job.start, reason="preemption", seconds=1.0)
    assert not job.die()


def test_with_no_failures_allowed_the_first_is_the_end(tmp_path: Path) -> None:
    strict = Job(tmp_path, max_failures=0)
    assert not strict.die()
    assert strict.last == ("failed", "rank 1 on n1 was killed by SIGKILL")


def test_a_torn_ending_is_none(tmp_path: Path) -> None:
    folder = start_folder(tmp_path, 7, 0)
    folder.mkdir()
    (folder / "rank-1.json").write_text(json.dumps(asdict(ending(1, 3))))
    (folder / "rank-0.json").write_text('{"rank": 0, "no')
    assert [each.rank for each in read_endings(tmp_path, 7, 0)] == [1]


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


def test_ports_stay_below_those_of_the_system() -> None:
    ports = [
        int(rank_env(SlurmTask(job, 30, 0, 2, 0, ("a",), "a", 1, 0))["MASTER_PORT"]) for job in range(0, 10**7, 997)
    ]
    assert (min(ports) >= 20_000, max(ports) < 32_000) == (True, True)


def test_one_rank_is_no_world() -> None:
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT"} & set(rank_env(SlurmTask(7, 0, 0, 1, 0, ("n",), "n", 1, 0)))


def submission(folder: Path, job: str = "7") -> None:
    Submission(job, 1, 1, ["a"], "code", {}).write(folder)
    History(folder).add("submitted", job=job, nodes=1, ranks=1)


@pytest.mark.parametrize(("state", "options"), [("RUNNING|n1", "--signal=TERM 7"), ("PENDING|(Priority)", "7")])
def test_a_job_that_runs_is_asked_to_end_and_one_that_waits_leaves_the_queue(
    tmp_path: Path, programs: Programs, state: str, options: str
) -> None:
    submission(tmp_path)
    History(tmp_path).add("started", job="7", start=2, nodes=["n1"], ranks=1, newest=None)
    programs.play("squeue", f"echo '{state}'")
    programs.play("scancel", "")
    assert cancel(tmp_path) == "7"
    assert programs.calls("scancel") == [options]
    event = History(tmp_path).read()[-1]
    assert (event.event, event["start"]) == ("cancelled", 2)


def test_nothing_is_cancelled_where_nothing_waits_or_runs(tmp_path: Path, programs: Programs) -> None:
    assert cancel(tmp_path) is None
    submission(tmp_path)
    programs.play("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    programs.play("scancel", "")
    assert cancel(tmp_path) is None
    assert programs.calls("scancel") == []
    assert History(tmp_path).read()[-1].event == "submitted"


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
        ("exit 1", None),
    ],
)
def test_a_state_is_what_squeue_says(programs: Programs, does: str, state: tuple[str, str] | None) -> None:
    programs.play("squeue", does)
    assert job_state("7") == state


def test_without_slurm_no_job_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert job_state("7") is None


@pytest.mark.parametrize(("left", "why"), [("3:00", "time limit"), ("1:00:00", "preemption"), ("UNLIMITED", None)])
def test_the_end_of_time_is_told_from_preemption(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, left: str, why: str | None
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    programs.play("squeue", f"echo {left}")
    assert rank_job._why_preempted(120) == (why or "time limit or preemption")


@pytest.mark.parametrize(
    ("lines", "code", "expected"),
    [
        (["step 1", "error: no such shard", ""], 1, (True, "no such shard")),
        (["error (rank 3): not finite", "warning: x"], 1, (True, "not finite")),
        (["Traceback (most recent call last):", "ValueError: bad", " "], 1, (False, "ValueError: bad")),
        (["step 1"], KILLED, (False, "killed by SIGKILL")),
        ([], 3, (False, "exit code 3")),
    ],
)
def test_what_a_command_said_last(lines: list[str], code: int, expected: tuple[bool, str]) -> None:
    assert rank_job._error(lines, code) == expected
