"""A job on this machine: real processes, tiny commands; it starts again what may go well, and leaves nobody behind."""

from __future__ import annotations

import dataclasses
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from cluster.errors import ClusterUsageError
from cluster.jobs import local_job
from cluster.jobs.command import RankCommand
from cluster.jobs.history import Event, History
from cluster.jobs.local_job import submit_local
from cluster.jobs.submission import Submission, cancel
from cluster.slurm.request import read_request

WAIT_S = 600.0
SAVES_WHEN_ASKED = (
    "trap 'touch saved; exit 130' TERM; [ -e saved ] && exit 0; touch began.$RANK; while :; do sleep 0.05; done"
)


class Jobs:
    """Jobs in a folder, whose commands run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def submit(self, shell: str, request: str = "", name: str = "job", **more: object) -> Path:
        """One of two ranks that run a line of shell. Its folder."""
        asked = read_request(",".join(filter(None, ["time=1", request or "tasks_per_node=2"])))
        submit_local(RankCommand(("sh", "-c", shell), self.root), asked, self.root / name, packages=["cluster"], **more)
        return self.root / name

    def run(self, shell: str, request: str = "") -> list[Event]:
        """Submit one, and wait for its end: all that happened."""
        return self.end_of(self.submit(shell, request))

    def end_of(self, folder: Path) -> list[Event]:
        wait_until(lambda: not is_alive(folder))
        assert self.orphans() == []
        return History(folder).read()

    def wait_for(self, *names: str) -> None:
        """Until the commands have made these files."""
        wait_until(lambda: all((self.root / name).exists() for name in names))

    def orphans(self) -> list[str]:
        """What runs here."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(process.name) != os.getpid() and (process / "cwd").readlink() == self.root:
                    found.append((process / "cmdline").read_text())
        return found


def is_alive(folder: Path) -> bool:
    submission = Submission.read(folder)
    assert submission is not None
    return submission.is_alive()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def names(events: list[Event]) -> list[str]:
    return [event.event for event in events]


def job_of(folder: Path) -> int:
    submission = Submission.read(folder)
    assert submission is not None
    return int(submission.job)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield Jobs(tmp_path)
    for folder in tmp_path.glob("*/job.json"):
        with suppress(ProcessLookupError):
            os.killpg(job_of(folder.parent), signal.SIGKILL)


def test_ranks_know_their_place_and_all_ending_well_is_the_end(jobs: Jobs) -> None:
    events = jobs.run(
        'echo $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR "${CUDA_VISIBLE_DEVICES-unset}" > place.$RANK; echo hi $RANK'
    )
    assert names(events) == ["submitted", "started", "finished"]
    assert [(jobs.root / f"place.{rank}").read_text() for rank in (0, 1)] == ["0 2 localhost \n", "1 2 localhost \n"]
    assert (jobs.root / "job" / f"{events[0]['job']}_1_log.out").read_text() == "hi 1\n"
    assert (events[1]["nodes"], events[1]["ranks"]) == (["localhost"], 2)


def test_a_submission_that_cannot_be_noted_leaves_no_process(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = local_job._start_supervisor

    def noted(folder: Path, code: Path) -> subprocess.Popen[bytes]:
        started.append(start(folder, code))
        return started[-1]

    monkeypatch.setattr(local_job, "_start_supervisor", noted)
    monkeypatch.setattr(Submission, "write", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        jobs.submit("touch began")
    [supervisor] = started
    try:
        assert supervisor.returncode is not None
        assert supervisor.stdin is not None
        assert supervisor.stdin.closed
    finally:
        supervisor.kill()
        supervisor.communicate()
    assert not (jobs.root / "began").exists()


def test_ranks_that_want_gpus_see_those_of_the_machine(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    jobs.run('echo "$CUDA_VISIBLE_DEVICES" > seen', "gpus_per_node=1")
    assert (jobs.root / "seen").read_text() == "3\n"


def test_a_job_survives_who_submitted_it(jobs: Jobs) -> None:
    program = (
        "from pathlib import Path; from cluster.jobs.local_job import *\n"
        "from cluster.slurm.request import read_request\n"
        f"root = Path({str(jobs.root)!r})\n"
        "command = RankCommand(('sh', '-c', 'while [ ! -e go ]; do sleep 0.05; done'), root)\n"
        "submit_local(command, read_request('time=1'), root / 'job', packages=['cluster'])"
    )
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as submitter:
        assert submitter.wait() == 0
        with suppress(ProcessLookupError):
            os.killpg(submitter.pid, signal.SIGHUP)  # as of a terminal that is closed
    wait_until(lambda: "started" in names(History(jobs.root / "job").read()))
    (jobs.root / "go").touch()
    assert names(jobs.end_of(jobs.root / "job"))[-1] == "finished"


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("$$", "rank 1 on localhost was killed by SIGKILL"),
        ("$PPID", "rank 1 on localhost ended without a word: killed, or "),
    ],
)
def test_a_rank_that_is_killed_is_started_again(jobs: Jobs, victim: str, reason: str) -> None:
    events = jobs.run(
        "echo start; [ -e once ] && exit 0; "
        f"[ $RANK = 0 ] && touch waiting && exec sleep 1000; while [ ! -e waiting ]; do sleep 0.05; done; "
        f"touch once; kill -9 {victim}; exec sleep 1000"
    )
    assert names(events) == ["submitted", "started", "failed", "started", "finished"]
    assert (events[2]["reason"].startswith(reason), events[2]["again"]) == (True, True)
    assert (jobs.root / "job" / f"{events[0]['job']}_0_log.out").read_text() == "start\nstart\n"  # one log for all


def test_an_error_that_is_told_is_the_end(jobs: Jobs) -> None:
    [_, _, failed] = jobs.run(
        "[ $RANK = 0 ] && touch waiting && exec sleep 1000; while [ ! -e waiting ]; do sleep 0.05; done; "
        "echo 'error: no such shard'; exit 2"
    )
    assert (failed.event, failed["reason"], failed["rank"], failed["again"]) == ("failed", "no such shard", 1, False)


def test_failures_that_save_nothing_end_at_last(jobs: Jobs) -> None:
    events = jobs.run("kill -9 $$", "max_failures=1")
    assert names(events) == ["submitted", "started", "failed", "started", "failed"]
    assert [event["again"] for event in events if event.event == "failed"] == [True, False]


def test_a_job_saves_and_starts_again_when_asked(jobs: Jobs) -> None:
    folder = jobs.submit(SAVES_WHEN_ASKED)
    jobs.wait_for("began.0", "began.1")
    os.kill(job_of(folder), signal.SIGUSR2)
    events = jobs.end_of(folder)
    assert names(events) == ["submitted", "started", "requeued", "started", "finished"]
    assert events[2]["seconds"] < WAIT_S


def test_a_cancelled_job_saves_and_ends(jobs: Jobs) -> None:
    folder = jobs.submit(SAVES_WHEN_ASKED)
    jobs.wait_for("began.0", "began.1")
    assert cancel(folder) == str(job_of(folder))
    events = jobs.end_of(folder)
    assert names(events) == ["submitted", "started", "cancelled", "stopped"]
    assert (events[-1]["reason"], (jobs.root / "saved").exists()) == ("cancelled", True)
    assert cancel(folder) is None


def test_a_job_whose_own_process_is_killed_saves_and_says_so(jobs: Jobs) -> None:
    folder = jobs.submit(SAVES_WHEN_ASKED)
    killed = job_of(folder)
    jobs.wait_for("began.0", "began.1")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: names(History(folder).read())[-1] == "stopped")
    assert History(folder).read()[-1]["reason"] == f"its process {killed} was killed; launch it again"
    jobs.wait_for("saved")
    jobs.submit(SAVES_WHEN_ASKED)
    assert names(jobs.end_of(folder)) == ["submitted", "started", "stopped", "submitted", "started", "finished"]


def test_another_process_with_the_number_of_a_job_is_not_the_job(jobs: Jobs) -> None:
    """After a restart of the machine, say."""
    folder = jobs.submit("true")
    jobs.end_of(folder)
    made = Submission.read(folder)
    assert made is not None
    with subprocess.Popen(["sh", "-c", "read line", "cluster.jobs.local_job"], stdin=subprocess.PIPE) as other:
        dataclasses.replace(made, job=str(other.pid)).write(folder)
        assert not is_alive(folder)
        assert cancel(folder) is None
        assert other.poll() is None
        jobs.submit("true")
        other.kill()


def test_a_job_waits_for_another(jobs: Jobs) -> None:
    first = jobs.submit("while [ ! -e go ]; do sleep 0.05; done; touch first", "tasks_per_node=1", "first")
    second = jobs.submit("[ -e first ]", "tasks_per_node=1", "second", behind=[first])
    wait_until(lambda: names(History(first).read())[-1] == "started")
    assert names(History(second).read()) == ["submitted"]
    (jobs.root / "go").touch()
    assert names(jobs.end_of(second)) == ["submitted", "started", "finished"]


def test_a_job_does_not_begin_when_what_comes_before_has_failed(jobs: Jobs) -> None:
    first = jobs.submit("echo error: no; exit 1", "tasks_per_node=1", "first")
    second = jobs.submit("touch began", "tasks_per_node=1", "second", behind=[first])
    assert names(jobs.end_of(first))[-1] == "failed"
    [_, stopped] = jobs.end_of(second)
    assert (stopped.event, stopped["reason"]) == ("stopped", f"{first}, which comes before, has not finished")
    assert not (jobs.root / "began").exists()


def test_a_job_that_waits_can_be_cancelled(jobs: Jobs) -> None:
    first = jobs.submit("while [ ! -e go ]; do sleep 0.05; done", "tasks_per_node=1", "first")
    second = jobs.submit("touch began", "tasks_per_node=1", "second", behind=[first])
    wait_until(lambda: listens(job_of(second)))
    cancel(second)
    wait_until(lambda: not is_alive(second))
    assert names(History(second).read()) == ["submitted", "cancelled", "stopped"]
    assert is_alive(first)


def test_the_code_of_the_submission_runs(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    package = jobs.root / "mine" / "__init__.py"  # also in the folder where the command runs
    package.parent.mkdir()
    package.write_text("VERSION = 1\n")
    monkeypatch.syspath_prepend(str(jobs.root))
    shell = (
        f"while [ ! -e go ]; do sleep 0.05; done; {shlex.quote(sys.executable)} -c 'import mine; print(mine.VERSION)'"
    )
    run = RankCommand(("sh", "-c", shell), jobs.root)
    folder = jobs.root / "job"
    submit_local(run, read_request("time=1"), folder, packages=["cluster", "mine"])
    package.write_text("VERSION = 2\n")
    (jobs.root / "go").touch()
    assert names(jobs.end_of(folder))[-1] == "finished"
    assert (folder / f"{job_of(folder)}_0_log.out").read_text() == "1\n"


def test_what_cannot_be_is_refused(jobs: Jobs) -> None:
    with pytest.raises(ClusterUsageError, match=r"^nodes=2: a local job is on this machine alone; tasks_per_node=N"):
        jobs.submit("true", "nodes=2")
    assert list(jobs.root.iterdir()) == []
    folder = jobs.submit("exec sleep 1000")
    with pytest.raises(ClusterUsageError, match=rf"^{folder}: its job {job_of(folder)} is still in the queue or"):
        jobs.submit("true")


def listens(pid: int) -> bool:
    """Whether a process has said what becomes of SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    [caught] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(caught >> (signal.SIGTERM - 1) & 1)
