"""The last job of a folder: one at a time, asked to end in the way that its state needs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.errors import ClusterError, ClusterUsageError
from cluster.jobs.command import RankCommand
from cluster.jobs.history import History
from cluster.jobs.slurm_job import submit_job
from cluster.jobs.submission import Submission, cancel, submitting
from cluster.lock import LOCK
from cluster.slurm.queue import UNKNOWN, job_state
from cluster.slurm.request import read_request

if TYPE_CHECKING:
    from tests.conftest import Programs


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


def test_where_squeue_does_not_answer_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert job_state("7") == UNKNOWN
    submission(tmp_path)
    with pytest.raises(ClusterUsageError, match="whether its job 7 has ended can only be seen where squeue answers"):
        submitting(tmp_path).__enter__()


def submit(folder: Path) -> str:
    """What comes of it."""
    run = RankCommand(("a",), folder)
    try:
        return submit_job(run, read_request("time=5"), folder, name="x", packages=["cluster"]).job
    except ClusterUsageError as error:
        return str(error)


def test_of_several_who_submit_at_once_one_does(tmp_path: Path, programs: Programs) -> None:
    programs.play("sbatch", "sleep 0.3; echo Submitted batch job 7")
    programs.play("squeue", "echo 'RUNNING|n1'")
    folder, said = tmp_path / "job", list[str]()
    threads = [threading.Thread(target=lambda: said.append(submit(folder))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == sorted(["7", *[f"{folder}: its job 7 is still in the queue or running"] * 2])
    assert len(programs.calls("sbatch")) == 1


def test_what_is_refused_leaves_a_folder_as_it_was(tmp_path: Path, programs: Programs) -> None:
    programs.play("sbatch", "echo 'sbatch: error: no such partition' >&2; exit 1")
    for folder in (tmp_path / "new", tmp_path / "old"):
        if folder.name == "old":
            (folder / "mine").mkdir(parents=True)
        with pytest.raises(ClusterError, match="no such partition"):
            submit(folder)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old" / "mine").exists()
    assert Submission.read(tmp_path / "old") is None


def test_who_waits_for_one_that_is_refused_is_alone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "job"
    first, refusal = submitting(folder), ClusterError("no such partition")
    first.__enter__()
    (folder / "note").touch()
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: first.__exit__(ClusterError, refusal, None))
        second = submitting(folder)
        second.__enter__()
    assert [path.name for path in folder.iterdir()] == [LOCK]
    monkeypatch.setattr("cluster.jobs.submission._SUBMITTING_S", 0.1)
    with pytest.raises(ClusterUsageError, match="job is in use by process"):
        submitting(folder).__enter__()
    submission(folder)
    second.__exit__(None, None, None)
    assert Submission.read(folder) is not None


def test_who_is_refused_removes_only_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two may both have found no folder."""
    folder, mkdir, refusal = tmp_path / "job", Path.mkdir, ClusterError("no such partition")

    def made_by_another(path: Path, *args: Any, **options: Any) -> None:
        mkdir(path, *args, **options)
        (folder / "note").touch()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", made_by_another)
        mine = submitting(folder)
        mine.__enter__()
    assert not mine.__exit__(ClusterError, refusal, None)
    assert (folder / "note").exists()


def test_who_cannot_wait_longer_is_told_who_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.submission._SUBMITTING_S", 0.1)
    with submitting(tmp_path / "job"), pytest.raises(ClusterUsageError, match=r"job is in use by process \d+ on "):
        submitting(tmp_path / "job").__enter__()
    assert (tmp_path / "job").exists()
