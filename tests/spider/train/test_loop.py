"""What the loop keeps and marks: checkpoints for good, _SUCCESS, and k of a run that branches."""

from __future__ import annotations

import errno
import inspect
import json
import multiprocessing
import re
import signal
import threading
import time

import pytest
import torch
from tqdm import tqdm

import cluster.checkpoint
from cluster.checkpoint import CheckpointStore
from cluster.errors import ClusterError, MachineError
from cluster.lock import alone_in
from cluster.world import World
from spider.clock import crosses
from spider.config.explain import explain
from spider.config.load import make_config
from spider.errors import SpiderError
from spider.precision import set_numerics
from spider.runs import directory as runs_directory
from spider.runs.directory import RunDirectory, images_of, resolve
from spider.train.loop import train
from spider.train.trainer import Trainer

SMALL = ["batch=8", "generator.width=0.05", "discriminator.width=0.05", "log.samples=4", "log.tensorboard=false"]
GENERAL = {"class", "generator", "images", "none", "run", "weights"}  # words that are names of choices as well
GENERAL |= {"all", "auto", "local", "ddp", "deepspeed", "fixed", "linear", "adaptive", "exponential"}


def test_the_loop_and_the_trainer_name_no_method():
    kinds = {kind for key in explain("") if key.name.endswith(".kind") for kind in key.type.split(" | ")} - {"str"}
    assert {"r3gan", "ada", "lecam", "relativistic", "adaptive", "deepspeed"} <= kinds
    for each in (train, Trainer):
        source = inspect.getsource(inspect.getmodule(each))
        split = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", source)  # also the words of a class's name
        words = f"_{re.sub('[^a-z0-9]+', '_', f'{source} {split}'.lower())}_"
        assert [kind for kind in kinds - GENERAL if f"_{kind}_" in words] == []


def run(data, path, overrides, branch=None):
    """Train in this process; how it ended."""
    config = make_config({"data": {"path": str(data)}}, [*SMALL, *overrides])
    return train(config, RunDirectory(path), World.single(), branch=branch, progress=False)


def kept(path):
    """The clock of every checkpoint."""
    return [images_of(name) for name in RunDirectory(path).checkpoint_names()]


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something done after every iteration: meanwhile(lambda images: ...)."""
    iterate = Trainer.iterate

    def watch(act):
        def iterate_and_act(trainer):
            iterate(trainer)
            act(trainer.images)

        monkeypatch.setattr(Trainer, "iterate", iterate_and_act)

    return watch


@pytest.fixture
def slow_disk(monkeypatch):
    """Every checkpoint takes longer to write than some iterations. The names of those begun."""
    write, begun = cluster.checkpoint.write_directory, []

    def write_slowly(directory, name, snapshot):
        begun.append(directory.name.removeprefix(".tmp-").rpartition("-")[0])
        time.sleep(0.15)
        return write(directory, name, snapshot)

    monkeypatch.setattr(cluster.checkpoint, "write_directory", write_slowly)
    return begun


def test_nothing_is_left_behind(digits, patches, tmp_path):
    """No thread and no process, whether the run ends or fails."""

    def alive():
        return {*threading.enumerate(), *multiprocessing.active_children()}

    reading = ["data.workers=1", "source.kind=images", f"source.path={patches}", "source.workers=1"]
    tqdm(disable=True)  # whose first bar starts a thread that watches all of a process
    before = alive()  # of which some may be ending
    assert run(digits, tmp_path / "run", ["kimg=0.04", *reading]) == "finished"
    with pytest.raises(SpiderError, match="not finite"):
        run(digits, tmp_path / "bad", ["kimg=0.04", *reading, "d_optimizer.lr=1e18", "guard.max_skipped=0"])
    deadline = time.monotonic() + 300
    while alive() - before and time.monotonic() < deadline:  # they are told to end, and not waited for
        time.sleep(0.05)
    assert alive() - before == set()


def test_a_run_belongs_to_one_process_at_a_time(digits, tmp_path):
    with (
        alone_in(tmp_path / "run", World.single()),
        pytest.raises(ClusterError, match=r"run is in use by process \d+ on "),
    ):
        run(digits, tmp_path / "run", ["kimg=0.008"])
    assert run(digits, tmp_path / "run", ["kimg=0.008"]) == "finished"


def test_another_machine_is_told_apart_on_resume(digits, tmp_path, capfd):
    """Bits are promised for the same threads, world and device only."""
    directory = RunDirectory(tmp_path / "run")
    run(digits, directory.path, ["kimg=0.008"])
    run(digits, directory.path, ["kimg=0.016"])
    assert "warning" not in capfd.readouterr().err
    file = directory.path / "environment.json"
    file.write_text(file.read_text().replace('"threads": ', '"threads": 10'))
    run(digits, directory.path, ["kimg=0.024"])
    threads = torch.get_num_threads()
    assert f"going on under other threads (10{threads}, now {threads}): close" in capfd.readouterr().err


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_rounded_as_the_run_says(digits, tmp_path, tf32):
    run(digits, tmp_path / "run", ["kimg=0.008", f"compute.tf32={str(tf32).lower()}"])
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    set_numerics(deterministic=False, tf32=False, compiled=False)


def test_an_interval_is_crossed_where_it_ends():
    """Though 16.1 x 1000 is more than 16,100 in floating point."""
    for images in range(100, 70_000, 100):
        assert crosses(images, 1, images / 1000), images
        assert not crosses(images - 1, 1, images / 1000), images


KEEP = ["kimg=0.16", "checkpoint.keep_every_kimg=0.05", "checkpoint.keep_last=1"]


@pytest.mark.parametrize("every_kimg", [0.01, 0.04, 1])
def test_checkpoints_kept_for_good_are_the_first_beyond_each_multiple(digits, tmp_path, every_kimg):
    """Multiples that the batch does not divide, and whenever else the run saves."""
    run(digits, tmp_path / "run", [*KEEP, f"checkpoint.every_kimg={every_kimg}"])
    assert kept(tmp_path / "run") == [56, 104, 152, 160]


@pytest.mark.parametrize("every_kimg", [0.01, 1])
def test_a_resumed_run_keeps_the_same_checkpoints(digits, tmp_path, meanwhile, every_kimg):
    """Stopped before, at and after the first one to keep."""
    meanwhile(lambda images: signal.raise_signal(signal.SIGINT) if images in (48, 56, 64) else None)
    settings = [*KEEP, f"checkpoint.every_kimg={every_kimg}"]
    ends = [run(digits, tmp_path / "run", settings) for _ in range(4)]
    assert ends == ["stopped"] * 3 + ["finished"]
    assert kept(tmp_path / "run") == [56, 104, 152, 160]


def test_success_is_marked_while_the_run_has_its_length(digits, tmp_path, meanwhile):
    directory = RunDirectory(tmp_path / "run")
    seen = []
    meanwhile(lambda images: seen.append((images, directory.success_file.exists())))
    run(digits, directory.path, ["kimg=0.016"])
    assert directory.success_file.read_text() == "0.016 kimg\n"
    run(digits, directory.path, ["kimg=0.016"])
    assert directory.success_file.exists()
    run(digits, directory.path, ["kimg=0.032"])
    assert directory.success_file.read_text() == "0.032 kimg\n"
    assert seen == [(8, False), (16, False), (24, False), (32, False)]


IMPROVING = [
    "kimg=0.08",
    "checkpoint.keep_last=1",
    "evaluate.every_kimg=0.008",
    "evaluate.embedding=offline",
    "evaluate.count=16",
]


def test_the_best_is_there_before_it_is_named_and_named_before_another_goes(digits, tmp_path, monkeypatch, slow_disk):
    """However long a write takes; the assertions are of the writing thread, whose errors end the run."""
    directory = RunDirectory(tmp_path / "run")
    write, remove, told, removed = runs_directory.write_text, CheckpointStore._remove, [], []

    def tell(path, text):
        if path == directory.best_file:
            told.append(json.loads(text)["checkpoint"])
            assert told[-1] in directory.checkpoint_names()
        write(path, text)

    def remove_after(store, name):
        there = directory.checkpoint_names()
        assert slow_disk[-1] == there[-1] != name
        assert directory.best()["checkpoint"] in set(there) - {name}
        removed.append(name)
        remove(store, name)

    monkeypatch.setattr(runs_directory, "write_text", tell)
    monkeypatch.setattr(CheckpointStore, "_remove", remove_after)
    assert run(digits, directory.path, IMPROVING) == "finished"
    assert len(set(told)) > 1
    assert removed


def test_training_goes_on_while_a_checkpoint_is_written(digits, tmp_path, meanwhile, monkeypatch):
    """The first write, of 16 images, ends when 32 are done; the second save, of 32, waits for it."""
    write, at_32, seen = cluster.checkpoint.write_directory, threading.Event(), {}

    def write_later(directory, name, snapshot):
        assert at_32.wait(300)
        return write(directory, name, snapshot)

    def look(images):
        seen[images] = kept(tmp_path / "run")
        if images == 32:
            at_32.set()

    monkeypatch.setattr(cluster.checkpoint, "write_directory", write_later)
    meanwhile(look)
    run(digits, tmp_path / "run", ["kimg=0.04", "checkpoint.every_kimg=0.016", "log.every_kimg=0.04"])
    assert (seen[24], seen[32], seen[40][:1]) == ([], [], [16])
    [row] = map(json.loads, RunDirectory(tmp_path / "run").metrics_file.read_text().splitlines())
    assert row["timing"]["save_blocked_s"] > 0
    assert row["timing"]["save_write_s"] > 0
    assert row["timing"]["save_write_mb"] > 0.1


def test_an_error_in_the_loop_lets_the_write_end(digits, tmp_path, meanwhile, slow_disk):
    def fail(images):
        if images == 24:
            raise ZeroDivisionError

    meanwhile(fail)
    with pytest.raises(ZeroDivisionError):
        run(digits, tmp_path / "run", ["kimg=0.04", "checkpoint.every_kimg=0.016"])
    assert kept(tmp_path / "run") == [16]


def test_a_run_whose_last_write_fails_is_not_marked_as_done(digits, tmp_path, monkeypatch):
    def fill(directory, name, snapshot):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cluster.checkpoint, "write_directory", fill)
    with pytest.raises(MachineError, match=r"000000\.016-kimg could not be written: No space left"):
        run(digits, tmp_path / "run", ["kimg=0.016"])
    assert not RunDirectory(tmp_path / "run").success_file.exists()


@pytest.fixture(scope="module")
def adaptive(digits, tmp_path_factory):
    """A run whose k fell to half of its batch of 16, for good: p is 1."""
    path = tmp_path_factory.mktemp("adaptive") / "run"
    falling = ["selection.k_unit=2", "selection.k_min=8", "overfit.target=-0.99", "overfit.rise_kimg=0.01"]
    run(digits, path, ["batch=16", "kimg=0.16", "selection.kind=adaptive", *falling])
    return path


@pytest.mark.parametrize(("batch", "k_unit", "k"), [(32, 1, 16), (32, 4, 16), (8, 1, 4), (12, 3, 6), (12, 4, 8)])
def test_a_branch_with_another_batch_begins_at_the_same_share_of_it(digits, adaptive, tmp_path, batch, k_unit, k):
    """To the nearest of its own strides."""
    branch = ["selection.kind=adaptive", f"selection.k_unit={k_unit}", "selection.trace.first_step=0"]
    overrides = [*branch, f"batch={batch}", "kimg=0.161", "overfit.rise_kimg=1000"]
    run(digits, tmp_path / "run", overrides, resolve(str(adaptive)))
    [row] = map(json.loads, RunDirectory(tmp_path / "run").trace_file.read_text().splitlines())
    assert (row["images"], row["k"], row["p"]) == (160 + batch, k, 1.0)
