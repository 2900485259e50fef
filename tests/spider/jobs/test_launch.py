"""A training as a job: refused by its key before anything is written; what was submitted is what starts read."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.errors import ClusterError, ClusterUsageError
from cluster.jobs.submission import Submission
from shards.errors import ShardsError
from spider.config.load import load_config
from spider.errors import SpiderError, SpiderUsageError
from spider.jobs.launch import Launch, prepare_launch
from spider.jobs.of_folder import log_file
from spider.jobs.submit import read_place
from spider.runs.directory import RunDirectory, checkpoint_name
from spider.runs.request import TrainRequest

if TYPE_CHECKING:
    from tests.conftest import Programs

SLURM = "nodes=2,gpus_per_node=4,time=60"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place where images could be; whether there are any, starts find out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    return "images"


def prepare(images: str, slurm: str = SLURM, **more: object) -> Launch:
    overrides = ["batch=64", "kimg=100", *more.pop("overrides", [])]
    return prepare_launch(TrainRequest("dcgan", "runs/one", data=images, overrides=overrides, **more), slurm)


def row(kimg: float, **timing: float) -> str:
    return json.dumps({"images": round(kimg * 1000), "kimg": kimg, "timing": timing}) + "\n"


def trained(folder: Path, images: str, *overrides: str) -> RunDirectory:
    """A run with a checkpoint of 3000 bytes at 10 kimg, as far as files go."""
    run = RunDirectory(folder)
    keys = [f"data.path={Path(images).absolute()}", "batch=64", "kimg=100", *overrides]
    run.write_config(load_config("dcgan", keys))
    for images_seen, size in ((5_000, 100), (10_000, 1_000)):
        saved = run.checkpoints / checkpoint_name(images_seen)
        saved.mkdir(parents=True)
        for name in "abc":
            (saved / name).write_bytes(bytes(size))
    return run


@pytest.mark.parametrize(
    ("slurm", "more", "message"),
    [
        ("nodes=3,time=60", {}, "batch=64 does not divide over 3 ranks x accumulation=1"),
        ("nodes=2,gpus_per_node=4,tasks_per_node=3,time=60", {}, "batch=64 does not divide over 6 ranks"),
        ("local,tasks_per_node=3", {}, "batch=64 does not divide over 3 ranks"),
        (
            SLURM,
            {"overrides": ["accumulation=16", "generator.norm=none"]},
            "batch=64 does not divide over 8 ranks x acc",
        ),
        (SLURM, {"overrides": ["engine.kind=local"]}, "engine.kind=local serves one process, and there are 8"),
        (SLURM, {"overrides": ["batc=3"]}, "batc=3: no such key; did you mean batch"),
        (SLURM, {"source": "nowhere"}, "source.path: {here}/nowhere: no such file, folder, run or prior"),
        (
            SLURM,
            {"overrides": ["evaluate.every_kimg=1", "evaluate.weights=nowhere"]},
            "evaluate.weights: {here}/nowhere: no",
        ),
        (SLURM, {"from_run": "nowhere@3"}, "nowhere: no such folder"),
        ("nodes=2", {}, "slurm: time: missing; MINUTES, "),
        ("nods=2,time=60", {}, "slurm: nods: no such key; did you mean nodes"),
        ("local,nods=2", {}, "slurm: nods: no such key; did you mean nodes"),
        ("cluster.yml", {}, "cluster.yml: neither a file nor KEY=VALUE,KEY=VALUE"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    images: str, slurm: str, more: dict[str, object], message: str
) -> None:
    with pytest.raises((SpiderError, ShardsError, ClusterError)) as refused:
        prepare(images, slurm, **more)
    assert re.match(message.replace("{here}", str(Path.cwd())), str(refused.value))
    assert refused.value.exit_code == 2
    assert {path.name for path in Path.cwd().iterdir()} == {"images"}


def test_another_configuration_than_the_runs_is_refused_by_its_keys(images: str) -> None:
    trained(Path("runs/one"), images)
    with pytest.raises(SpiderUsageError, match=r"\(g_optimizer\.lr: 0\.0001 -> 1\.0; seed: 0 -> 7\)"):
        prepare(images, seed=7, overrides=["g_optimizer.lr=1"])
    assert not Path("runs/one/slurm").exists()


def test_a_run_may_become_longer_and_its_images_lie_elsewhere(images: str) -> None:
    trained(Path("runs/one"), images)
    Path("moved").mkdir()
    assert prepare("moved", kimg="+50").config.kimg == 60


def test_what_a_start_fills_in_is_no_difference(images: str) -> None:
    trained(Path("runs/one"), images, "selection.kind=linear", "selection.over_kimg=100")
    again = prepare(images, overrides=["selection.kind=linear"])
    assert again.config.selection.over_kimg is None  # the start will find it in the run


def test_starts_read_what_was_submitted(images: str, programs: Programs) -> None:
    programs.play("sbatch", "echo Submitted batch job 7")
    mine = Path("mine.yaml")
    mine.write_text("objective: {kind: wasserstein}\nbatch: 64\nkimg: 100\n")
    ready = prepare_launch(TrainRequest(str(mine), "runs/one", data=images, seed=3), SLURM)
    submission = ready.submit()
    mine.write_text("batch: 128\n")
    assert (submission.job, submission.nodes, submission.tasks_per_node) == ("7", 2, 4)
    train, file, *words = submission.command[3:]
    assert (train, words) == ("train", ["--run", str(Path("runs/one").absolute())])
    assert Path(file) == Path("runs/one/slurm/submitted.yaml").absolute()
    read = load_config(file)
    assert read == ready.config
    assert (read.batch, read.seed, read.data.path) == (64, 3, str(Path(images).absolute()))
    told = json.loads(Path("runs/one/slurm/job.json").read_text())["request"]
    assert (told["nodes"], told["gpus_per_node"]) == (2, 4)


def test_a_branch_is_the_same_checkpoint_for_every_start(images: str) -> None:
    trained(Path("runs/other"), images)
    command = prepare(images, from_run="runs/other").command.command
    assert command[-2:] == ("--from", f"{Path('runs/other').absolute()}@000010")


def test_a_run_whose_job_is_in_the_queue_is_not_submitted_again(images: str, programs: Programs) -> None:
    programs.play("sbatch", "echo Submitted batch job 7")
    prepare(images).submit()
    submitted = Path("runs/one/slurm/submitted.yaml").read_text()
    programs.play("squeue", "echo 'PENDING|(Priority)'")
    again = prepare(images, overrides=["seed=9"])
    with pytest.raises(ClusterUsageError, match=r"its job 7 is still in the queue or running$"):
        again.submit()
    assert Path("runs/one/slurm/submitted.yaml").read_text() == submitted


def test_the_script_names_the_run_and_writes_nothing(images: str) -> None:
    text = prepare(images, f"{SLURM},job_name=mine").script()
    assert "#SBATCH --job-name=mine\n" in text
    assert f"submit._submit {shlex.quote(str(Path('runs/one/slurm').absolute()))}" in text.replace("core.", "submit.")
    assert "#SBATCH --job-name=spider-one\n" in prepare(images).script()
    assert not Path("runs").exists()
    with pytest.raises(SpiderUsageError, match=r"^--dry-run: a local job has no script"):
        prepare(images, "local").script()


def test_a_place_is_a_request_or_this_machine() -> None:
    assert (read_place(SLURM).ranks, read_place(SLURM).local) == (8, False)
    assert (read_place("local").ranks, read_place("local").local) == (1, True)
    assert read_place("local,tasks_per_node=3,max_failures=1").request.max_failures == 1
    with pytest.raises(SpiderUsageError, match="local comes first"):
        read_place("tasks_per_node=3,local")


def test_a_new_run_is_forecast_from_the_request(images: str) -> None:
    found = prepare(images, "nodes=2,gpus_per_node=4,time=10:00:00,max_timeouts=4", overrides=["kimg=3600"]).forecast(
        700
    )
    assert (found.kimg, found.done_kimg, found.img_per_s, found.hours) == (3600, 0, None, None)
    # 3,600,000 images in 5 x 10 hours, each of which is over when the job is told to save
    assert found.slowest_img_per_s == pytest.approx(20 * 36_000 / (36_000 - 120))
    assert (found.checkpoint_bytes, found.disk_bytes) == (700, 700 * found.checkpoints)
    assert found.free_bytes > 0


def test_a_run_that_goes_on_is_forecast_from_its_rows_and_checkpoints(images: str) -> None:
    evaluated = ["evaluate.every_kimg=40", "evaluate.embedding=offline"]  # at 40, 80 and the end
    run = trained(Path("runs/one"), images, *evaluated)
    newest = row(28, img_per_s=200.0, evaluation_s=36.0)
    run.metrics_file.write_text(row(5, img_per_s=1.0) + newest + '{"images": 99')
    found = prepare(images, "gpus_per_node=8,time=60,max_timeouts=0", overrides=evaluated).forecast(None)
    assert (found.done_kimg, found.img_per_s, found.hours) == (28, 200, pytest.approx(0.1 + 0.03))
    assert found.slowest_img_per_s == pytest.approx(20 * 3600 / (3600 - 120))
    assert found.checkpoint_bytes == 3000  # as it is on the disk


def test_a_local_job_has_all_the_time(images: str) -> None:
    found = prepare(images, "local").forecast(None)
    assert (found.slowest_img_per_s, found.disk_bytes) == (None, None)


def submitted(folder: Path) -> None:
    folder.mkdir(parents=True)
    Submission("7", 2, 2, ["a"], "code", {}).write(folder)


def test_the_log_of_a_rank_is_that_of_the_last_job(tmp_path: Path) -> None:
    with pytest.raises(SpiderError, match=r"one: no job was submitted for it \(spider launch\)$"):
        log_file(tmp_path / "one", 0)
    submitted(tmp_path / "one" / "slurm")
    with pytest.raises(SpiderError, match=r"one: job 7 has no log of rank 3: it has not begun$"):
        log_file(tmp_path / "one", 3)
    with pytest.raises(SpiderError, match=r"one: job 7 has no log of rank 4: its ranks are 0 to 3$"):
        log_file(tmp_path / "one", 4)
    log = tmp_path / "one" / "slurm" / "7_3_log.out"
    log.touch()
    assert log_file(tmp_path / "one", 3) == log
    submitted(tmp_path / "all" / "stages" / "two")  # of a stage
    (tmp_path / "all" / "stages" / "two" / "7_0_log.out").touch()
    assert log_file(tmp_path / "all" / "stages" / "two", 0).name == "7_0_log.out"
