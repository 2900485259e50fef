"""spider launch, status, logs, cancel: as words; what they do is in tests/spider/jobs."""

from __future__ import annotations

import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.jobs.command import RankCommand
from cluster.jobs.history import History
from cluster.jobs.local_job import submit_local
from cluster.jobs.submission import Submission
from cluster.slurm.request import read_request

SLURM = "nodes=2,gpus_per_node=4,cpus_per_task=4,time=60"
SETUP = "if only its node has it, name it in slurm's setup (docs/operations.md)"
PIPELINE = """
stages:
  digits: {verb: pack, source: "builtin:digits", out: "{run}/digits", resolution: 16}
  one: {verb: train, config: dcgan, data: "{run}/digits", run: "{run}/one", overrides: batch=64, after: digits}
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Of a launch that is right."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    return ["launch", "dcgan", "--data=images", "--run=runs/one", f"--slurm={SLURM}", "batch=64"]


def submitted(run, *ranks):
    """A run with a job of four ranks, which is gone, and what some of them printed."""
    folder = Path(run, "slurm")
    folder.mkdir(parents=True)
    Submission("7", 2, 2, ["a"], "code", {}).write(folder)
    History(folder).add("submitted", job="7", nodes=2, ranks=4)
    for rank in ranks:
        (folder / f"7_{rank}_log.out").write_text("".join(f"{rank}: line {n}\n" for n in range(100)))


def wait_until(holds):
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_dry_run_prints_the_script_and_writes_nothing(spider, words, tmp_path):
    found = spider(*words, "--seed=3", "--dry-run")
    assert found.code == 0, found.err
    assert "#SBATCH --ntasks-per-node=4" in found.out
    (line,) = (line for line in found.out.splitlines() if line.startswith("# the command: "))
    command = shlex.split(line.removeprefix("# the command: "))
    run = str(tmp_path / "runs" / "one")
    assert command == [sys.executable, "-m", "spider", "train", f"{run}/slurm/submitted.yaml", "--run", run]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert found.err == ""
    assert "spider train --dry-run on one of the nodes tells" in found.out
    assert "its time (up to 31 starts of 60.0 minutes each) is enough at" in found.out
    words[-2] += ",max_timeouts=0"
    assert "its time (60.0 minutes) is enough at" in spider(*words, "--dry-run").out


def test_cores_that_nobody_asked_for_are_warned_of(spider, words):
    words[-2] = "--slurm=gpus_per_node=4,time=60"
    assert spider(*words, "--dry-run").err.startswith("warning: cpus_per_task is not given")
    words[-2] = "--slurm=gpus_per_node=4,time=60,exclusive=true"
    assert spider(*words, "--dry-run").err == ""


def test_a_local_job_is_measured_here(spider, words, monkeypatch):
    monkeypatch.setattr("spider.jobs.launch.Launch.submit", lambda ready: Submission("8", 1, 1, ["a"], "code", {}))
    told = spider(*words[:-2], "--slurm=local")
    assert "spider train --dry-run here tells how long it takes" in told.out
    assert "\njob 8, 1 rank: spider status" in told.out


def test_a_submission_tells_its_job(spider, words, programs, tmp_path):
    programs.play("sbatch", "echo Submitted batch job 7")
    told = spider(*words)
    assert told.code == 0, told.err
    assert told.out.splitlines()[-1].startswith("job 7, 8 ranks: spider status runs/one, ")
    assert "checkpoints" in told.out
    run = tmp_path / "runs" / "one"
    told = spider(*words, "--json").json
    assert told.pop("forecast")["kimg"] > 0
    assert told == {"run": str(run), "job": "7", "log": str(run / "slurm" / "7_0_log.out")}


def test_a_queue_that_refuses_is_one_line(spider, words, programs):
    programs.play("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    refused = spider(*words)
    assert (refused.code, refused.error) == (1, "error: sbatch refuses the job: error: invalid partition specified: x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "images"], "--data"),
        (["--source", "images"], "--source"),
        (["--kimg", "3"], "--kimg"),
        (["--seed", "0"], "--seed"),
        (["--mirror"], "--mirror"),
        (["--from", "runs/one"], "--from"),
        (["batch=3"], "batch=3"),
    ],
)
def test_a_pipeline_takes_no_options_of_a_training(spider, tmp_path, options, said):
    file = tmp_path / "stages.yaml"
    file.write_text(PIPELINE)
    refused = spider("launch", file, *options, "--run", tmp_path / "all", "--slurm", SLURM)
    assert refused.code == 2
    assert refused.error == f"error: {said}: the stages of a pipeline say it themselves, in {file}"
    assert not (tmp_path / "all").exists()


def test_what_a_stages_verb_would_refuse_is_refused_now(spider, tmp_path, programs):
    file = tmp_path / "stages.yaml"
    file.write_text(PIPELINE.replace("batch=64", "batch=33"))
    refused = spider("launch", file, "--run", tmp_path / "all", "--slurm", SLURM)
    assert refused.code == 2
    assert refused.error.startswith(f"error: {file}: stages.one: batch=33 does not")
    assert programs.calls("sbatch") == []
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_what_no_stage_makes_and_is_not_there_is_refused_now(spider, tmp_path, programs, more):
    file = tmp_path / "stages.yaml"
    file.write_text(PIPELINE.replace("builtin:digits", f"{tmp_path}/gone.tar"))
    refused = spider("launch", file, "--run", tmp_path / "all", "--slurm", SLURM, *more)
    assert refused.code == 2
    assert refused.error == f"error: stage digits: source: {tmp_path}/gone.tar: no such file or folder; {SETUP}"
    assert programs.calls("sbatch") == []
    assert not (tmp_path / "all").exists()


def test_a_pipelines_dry_run_is_a_line_for_each_stage_and_scripts_when_asked(spider, tmp_path):
    file = tmp_path / "stages.yaml"
    file.write_text(PIPELINE)
    words = ["launch", file, "--run", tmp_path / "all", "--dry-run", "--slurm"]
    table = [
        "stage   verb   nodes  ranks  GPUs          time  waits for  state",
        "digits  pack       1      1     -  60.0 minutes  -          to be submitted",
        "one     train      2      8     8  60.0 minutes  digits     to be submitted",
    ]
    assert spider(*words, SLURM).out.splitlines() == table
    found = spider(*words, SLURM, "--scripts").out
    assert found.splitlines()[:3] == table
    assert [line for line in found.splitlines() if line.startswith("# stage")] == ["# stage digits", "# stage one"]
    assert found.count("#!/bin/bash") == 2
    first, second = spider(*words, SLURM, "--json").json
    assert [*first] == ["stage", "verb", "nodes", "ranks", "gpus", "time_min", "after", "state", "script"]
    assert [(row["gpus"], row["time_min"], row["after"]) for row in (first, second)] == [
        (0, 60, []),
        (8, 60, ["digits"]),
    ]
    assert second["script"].startswith("#!/bin/bash")
    assert spider(*words, "local", "--json").json[0]["time_min"] is None
    here = spider(*words, "local", "--scripts").out.splitlines()
    assert here[1].split()[:6] == ["digits", "pack", "1", "1", "-", "-"]
    assert [line.split()[1] for line in here if line.startswith("spider ")] == ["pack", "train"]
    assert not (tmp_path / "all").exists()


def test_scripts_are_of_the_dry_run_of_stages(spider, words, tmp_path):
    assert spider(*words, "--dry-run", "--scripts").error.startswith("error: --scripts: of a file of stages only")
    file = tmp_path / "stages.yaml"
    file.write_text(PIPELINE)
    refused = spider("launch", file, "--run", tmp_path / "all", "--slurm", SLURM, "--scripts")
    assert (refused.code, refused.error) == (2, "error: --scripts: of a --dry-run only")


def test_a_pipeline_tells_the_job_of_each_stage(spider, tmp_path, programs):
    programs.play("sbatch", f"echo Submitted batch job $(wc -l < {programs.folder}/sbatch.calls)")
    file = tmp_path / "stages.yaml"
    file.write_text(PIPELINE)
    words = ["launch", file, "--run", tmp_path / "all", "--slurm", SLURM]
    told = spider(*words).out.splitlines()
    assert told == ["digits: job 1", "one: job 2", f"spider status {tmp_path}/all tells how far they are"]
    programs.play("squeue", "echo 'PENDING|(Priority)'")
    assert spider(*words).out.splitlines()[:2] == ["digits: job 1, as it was", "one: job 2, as it was"]
    programs.play("squeue", "true")
    History(tmp_path / "all" / "stages" / "digits").add("finished", job="1", start=0)
    dry = spider(*words, "--dry-run").out.splitlines()
    assert [line.split("  ")[-1].strip() for line in dry[1:]] == ["has finished before", "to be submitted"]
    assert spider(*words).out.splitlines()[:2] == ["digits: has finished before", "one: job 3"]
    assert spider(*words, "--json").json == [
        {"name": "digits", "job": None, "is_new": False, "seen_from": None},
        {"name": "one", "job": "4", "is_new": True, "seen_from": None},
    ]


def test_a_dry_run_without_squeue_says_that_it_does_not_know(spider, tmp_path, programs):
    """But for what has told of its end. Jobs may be in the queue whose words the file has no more."""
    programs.play("sbatch", f"echo Submitted batch job $(wc -l < {programs.folder}/sbatch.calls)")
    file = tmp_path / "stages.yaml"
    file.write_text(PIPELINE)
    words = ["launch", file, "--run", tmp_path / "all", "--slurm", SLURM]
    spider(*words)
    (programs.folder / "squeue").unlink()

    def states(*more):
        return [line.split("  ")[-1].strip() for line in spider(*words, *more, "--dry-run").out.splitlines()[1:]]

    unknown = "job {}, state unknown: ask where squeue answers"
    assert states() == [unknown.format(1), unknown.format(2)]
    assert spider(*words).out.splitlines()[0] == f"digits: {unknown.format(1)}"
    History(tmp_path / "all" / "stages" / "digits").add("finished", job="1", start=0)
    assert states() == ["has finished before", unknown.format(2)]
    file.write_text(PIPELINE.replace("overrides: batch=64", "overrides: batch=128"))
    assert states() == ["has finished before", unknown.format(2)]
    assert spider(*words).error == "error: stage one: its job 2 has other words; cancel it first"
    History(tmp_path / "all" / "stages" / "one").add("failed", job="2", start=0, reason="killed")
    assert states() == ["has finished before", "to be submitted"]


def test_status_is_json_when_asked(spider, tmp_path, programs):
    submitted(tmp_path / "one")
    (tmp_path / "one" / "slurm" / "submitted.yaml").write_text("kimg: 3\n")
    [run] = spider("status", tmp_path, "--json").json["runs"]
    assert (run["summary"]["name"], run["job"]["job"]) == ("one", "7")
    assert spider("status", tmp_path / "one", "--watch").out.startswith("state ")  # what is over is told once
    assert spider("status", tmp_path / "else").error == f"error: {tmp_path}/else: no such folder"


def test_logs_are_the_end_of_what_a_rank_printed(spider, tmp_path):
    submitted(tmp_path / "one", 0, 3)
    told = spider("logs", tmp_path / "one", "--rank=3", "--lines=2")
    assert told.code == 0
    assert told.out.splitlines()[1:] == ["3: line 98", "3: line 99"]


def test_a_log_with_nothing_in_it_is_said_to_be_empty(spider, tmp_path):
    submitted(tmp_path / "one", 0)
    (tmp_path / "one" / "slurm" / "7_0_log.out").write_text("")
    told = spider("logs", tmp_path / "one")
    assert (told.code, told.err) == (0, "nothing printed yet\n")


def test_logs_are_followed_until_the_job_has_ended(spider, tmp_path, programs, monkeypatch):
    monkeypatch.setattr("spider.cli.launch._WATCH_S", 0.5)
    submitted(tmp_path / "one", 0)
    folder = tmp_path / "one" / "slurm"
    programs.play("squeue", f"echo >> {tmp_path}/asked; [ -e {tmp_path}/over ] || echo 'RUNNING|None'")

    def work() -> None:
        wait_until((tmp_path / "asked").exists)
        with (folder / "7_0_log.out").open("a") as log:
            log.write("0: its last word\n")
        History(folder).add("finished", job="7", start=0)
        (tmp_path / "over").touch()

    with ThreadPoolExecutor() as pool:
        working = pool.submit(work)
        told = spider("logs", tmp_path / "one", "--lines=1", "--follow")
        working.result()
    assert told.out.splitlines()[1:] == ["0: line 99", "0: its last word"]


def test_the_log_of_a_job_that_waits_is_waited_for(spider, tmp_path, programs, monkeypatch):
    monkeypatch.setattr("spider.cli.launch._WATCH_S", 0.1)
    submitted(tmp_path / "one")
    begin = f"[ -e {tmp_path}/asked ] && echo '0: hello' > {tmp_path}/one/slurm/7_0_log.out"
    programs.play("squeue", f"{begin} || {{ touch {tmp_path}/asked; echo 'PENDING|(Priority)'; }}")
    told = spider("logs", tmp_path / "one", "--follow")
    assert told.err == f"{tmp_path}/one: job 7 has no log of rank 0: it has not begun; waiting\n"
    assert told.out.splitlines()[1:] == ["0: hello"]


def test_the_log_of_a_stages_run_is_the_stages(spider, tmp_path):
    stage = tmp_path / "all" / "stages" / "one"
    stage.mkdir(parents=True)
    Submission("7", 1, 1, ["a"], "code", {}).write(stage)
    History(stage).add("submitted", job="7", nodes=1, ranks=1)
    (tmp_path / "all" / "one").mkdir()
    assert spider("logs", tmp_path / "all" / "one").error.endswith(f"of a pipeline; its stages are {stage}")


@pytest.mark.parametrize(("rank", "about"), [(1, "it has not begun"), (4, "its ranks are 0 to 3")])
def test_the_log_of_a_rank_that_is_not_there_is_said(spider, tmp_path, rank, about):
    submitted(tmp_path / "one", 0)
    refused = spider("logs", tmp_path / "one", "--rank", rank)
    assert (refused.code, refused.error) == (1, f"error: {tmp_path}/one: job 7 has no log of rank {rank}: {about}")
    assert refused.out == ""


def test_nothing_is_cancelled_where_nothing_runs(spider, tmp_path, programs):
    submitted(tmp_path / "one")
    assert spider("cancel", tmp_path / "one").error == f"error: {tmp_path}/one: no job of it waits or runs"


def test_a_pipeline_runs_here(spider, digits, tmp_path):
    file, run = tmp_path / "stages.yaml", tmp_path / "all"
    one, two = (f"{{verb: verify, shards: {shards}" for shards in (digits, f"'{run}/nowhere'"))
    file.write_text(f"stages: {{one: {one}}}, two: {two}, after: one}}}}")
    assert spider("launch", file, "--run", run, "--slurm", "local").code == 0
    two = run / "stages" / "two"
    wait_until(lambda: History(two).read()[-1].event == "failed" and not Submission.read(two).is_alive())
    stages = spider("status", run, "--json").json["stages"]
    assert {name: job["state"] for name, job in stages.items()} == {"one": "finished", "two": "failed"}
    assert stages["two"]["why"] == f"{run}/nowhere: no such folder"


def test_a_job_is_cancelled_and_waited_for(spider, tmp_path):
    folder = tmp_path / "one" / "slurm"
    folder.mkdir(parents=True)
    (folder / "submitted.yaml").write_text("kimg: 3\n")
    stays = "trap 'sleep 0.3; exit 130' TERM; touch began; while :; do sleep 0.05; done"
    made = submit_local(
        RankCommand(("sh", "-c", stays), tmp_path), read_request("time=1"), folder, packages=["cluster"]
    )
    wait_until((tmp_path / "began").exists)
    assert spider("launch", "dcgan", "--data", tmp_path, "--run", tmp_path / "one", "--slurm", "local").code == 2
    first, *told = spider("cancel", tmp_path / "one").out.splitlines()
    assert first == f"job {made.job} was asked to save and end"
    assert told[0] == "state       stopped: cancelled"
    assert not made.is_alive()


def test_a_job_is_launched_once_and_not_by_every_rank(spider, words, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "spider launch is one process, and here are several" in spider(*words).error
