"""What a run leaves for people to look at: its last images too, and nothing that a longer run would not have."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.world import World
from shards.dataset import ShardDataset
from shards.pack import pack
from spider.config.load import make_config
from spider.runs import curves
from spider.runs.directory import RunDirectory
from spider.runs.generator import open_generator
from spider.runs.row_text import numbers_text, so_far_texts
from spider.runs.start import prepare
from spider.train.evaluator import Evaluator
from spider.train.loop import train
from spider.train.record import Recorder
from spider.train.trainer import Trainer

OVERRIDES = [
    "batch=20",
    "generator.width=0.05",
    "discriminator.width=0.05",
    "log.every_kimg=0.1",
    "log.samples_every_kimg=0.1",
    "log.samples=8",
    "evaluate.every_kimg=0.13",  # at 0.26 with neither row nor grid
    "evaluate.embedding=offline",
    "evaluate.count=64",
    "compute.deterministic=true",
]


def run(data, path, kimg, progress=False, extra=()):
    directory = RunDirectory(path)
    config = make_config({"data": {"path": str(data)}, "kimg": kimg}, [*OVERRIDES, *extra])
    return train(prepare(config, directory), directory, World.single(), progress=progress)


def rows(path):
    """The rows of metrics.jsonl, but for what time does to them."""
    lines = RunDirectory(path).metrics_file.read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "timing"} for line in lines]


def shown(path):
    """All that people look at: rows, TensorBoard, grids."""
    directory = RunDirectory(path)
    board = EventAccumulator(str(directory.tensorboard)).Reload()
    scalars = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
        if not tag.startswith("timing/")
    }
    images = {tag: [event.step for event in board.Images(tag)] for tag in board.Tags()["images"]}
    return rows(path), scalars, images, {file.name: file.read_bytes() for file in directory.samples.iterdir()}


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "whole"
    assert run(digits, path, 0.44) == "finished"
    return path


def stop_at(images, monkeypatch):
    """Ctrl-C after the iteration that reaches so many images."""
    iteration = Recorder.iteration

    def then_stop(self):
        iteration(self)
        if self.trainer.images == images:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Recorder, "iteration", then_stop)


def test_the_last_images_are_seen(whole):
    assert [row["images"] for row in rows(whole)] == [100, 200, 300, 400, 440]
    assert rows(whole)[-1]["loss/g"] is not None
    assert (whole / "samples" / "000000.440-kimg.png").is_file()
    _, scalars, images, _ = shown(whole)
    ends = {tag: points[-1][0] for tag, points in scalars.items() if tag.startswith(("loss/", "metrics/"))}
    assert set(ends.values()) == {440}
    assert images["samples"][-1] == 440


def test_a_longer_run_shows_what_one_in_a_piece_does(digits, whole, tmp_path):
    assert run(digits, tmp_path / "run", 0.26) == "finished"
    assert rows(tmp_path / "run")[-1]["images"] == 260
    assert run(digits, tmp_path / "run", 0.44) == "finished"
    assert shown(tmp_path / "run") == shown(whole)


def test_a_stopped_run_shows_what_one_in_a_piece_does(digits, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(260, patch)
        assert run(digits, tmp_path / "run", 0.44) == "stopped"
    assert rows(tmp_path / "run")[-1]["images"] == 260
    assert (tmp_path / "run" / "samples" / "000000.260-kimg.png").is_file()
    assert run(digits, tmp_path / "run", 0.44) == "finished"
    assert shown(tmp_path / "run") == shown(whole)


def test_a_run_killed_after_its_last_save_shows_its_last_images(digits, whole, tmp_path):
    run(digits, tmp_path / "run", 0.44)
    directory = RunDirectory(tmp_path / "run")
    directory.success_file.unlink()
    (directory.samples / "000000.440-kimg.png").unlink()
    directory.metrics_file.write_text("".join(directory.metrics_file.read_text().splitlines(keepends=True)[:-1]))
    assert run(digits, tmp_path / "run", 0.44) == "finished"
    assert shown(tmp_path / "run") == shown(whole)
    assert directory.success_file.is_file()


def test_a_finished_run_is_left_as_it_is(digits, tmp_path):
    run(digits, tmp_path / "run", 0.04)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert run(digits, tmp_path / "run", 0.04) == "already finished"
    assert run(digits, tmp_path / "run", 0.02) == "already finished"
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_the_grid_of_training_images_is_drawn_from_all_of_them(tmp_path):
    """Of two classes that lie one after the other, black and white."""
    for number in range(60):
        file = tmp_path / "images" / "ab"[number // 30] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 255 * (number // 30)).save(file)
    pack(tmp_path / "images", tmp_path / "packed", workers=1, progress=False)
    run(tmp_path / "packed", tmp_path / "run", 0.02, extra=["evaluate.every_kimg=null"])
    grid = np.asarray(Image.open(tmp_path / "run" / "samples" / "reals.png"))
    centres = grid[48, [48 + 80 * column for column in range(8)], 0]  # 8 x 8 images are shown 64 px wide, 16 px apart
    assert set(centres.tolist()) == {0, 255}


def test_an_image_of_a_grid_bears_the_number_that_makes_it_again(whole):
    grid = np.asarray(Image.open(whole / "samples" / "000000.440-kimg.png"))
    made = open_generator(str(whole), World.single().device).numbered("", 0, 8).batch(0, 8)
    for number in range(8):
        left = 16 + number * (64 + 16)
        small = grid[16 : 16 + 64 : 8, left : left + 64 : 8, 0].astype(int)
        assert abs(small - made[number, 0].numpy().astype(int)).max() <= 1
    strip = grid[16 + 64 : 16 + 64 + 14]
    assert strip.min() < 128 < strip[:, :16].min()  # something is written below the images, nothing between


def test_without_a_terminal_progress_is_lines(digits, tmp_path, capsys):
    run(digits, tmp_path / "run", 0.24, progress=True)
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = [line for line in text.splitlines() if " img/s" in line]
    assert [line.split(" kimg")[0] for line in lines] == ["0.1 of 0.24", "0.2 of 0.24", "0.24 of 0.24"]
    assert "left" in lines[0]
    assert all(re.search(r", \d+ s so far, D", line) for line in lines)


def test_a_line_says_how_much_of_a_gpu_was_taken_and_a_bar_tells_the_time_itself():
    timing = {"total_s": 65.0, "gpu_memory_mb": 3072.0}
    assert so_far_texts(timing, timed=False) == ["65 s so far", "GPU 3.0 GB"]
    assert so_far_texts(timing, timed=True) == ["GPU 3.0 GB"]


def test_what_settings_ask_one_to_know_is_told_when_a_run_begins(digits, tmp_path, capsys):
    for kimg, told in ((0.04, 1), (0.08, 0)):
        run(digits, tmp_path / "run", kimg, progress=True, extra=["evaluate.every_kimg=null"])
        assert capsys.readouterr().err.count("warning: nothing is evaluated") == told


def test_speed_and_time_left_are_those_of_training_and_of_the_evaluations_still_due(
    digits, tmp_path, capsys, monkeypatch
):
    """On a clock by which an iteration of 20 images takes 1 s, a grid 1000 s and the evaluations 30, 50 and 70 s."""
    now, evaluations = [0.0], iter([30.0, 50.0, 70.0])

    def lasting(seconds, result):
        def work(*args):
            now[0] += seconds()
            return result(*args)

        return work

    monkeypatch.setattr("spider.runs.timing.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Trainer, "iterate", lasting(lambda: 1.0, Trainer.iterate))
    monkeypatch.setattr(Recorder, "samples", lasting(lambda: 1000.0, lambda recorder: None))
    monkeypatch.setattr(Evaluator, "measure", lasting(lambda: next(evaluations), lambda *args: False))
    run(digits, tmp_path / "run", 0.5, progress=True, extra=["evaluate.every_kimg=0.2"])  # at 200, 400 and the end
    timings = [json.loads(line)["timing"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [timing["img_per_s"] for timing in timings] == [20.0] * 5
    # The row at 200 images is written before the evaluation there
    assert [timing["evaluations_left"] for timing in timings] == [3, 3, 2, 2, 1]
    assert [timing["left_s"] for timing in timings] == [20, 15, 10 + 2 * 30, 5 + 2 * 30, 40]
    lines = [line for line in capsys.readouterr().err.splitlines() if "img/s" in line]
    said = ["20 s and 3 evaluations left", "15 s and 3 evaluations left", "70 s left", "65 s left", "40 s left"]
    assert [line.split(", ")[1:3] for line in lines] == [["20 img/s", left] for left in said]


def slow_on_rank_1(world, data, path, owner, name):
    """On a rank: timings and lines of a run in which rank 1 sleeps for longer than an iteration takes.

    Of several rows, because a machine with other work may hold up either rank for a while.
    """
    work = getattr(owner, name)

    def slowly(*args):
        time.sleep(1.0 if world.rank == 1 else 0)
        return work(*args)

    rows_of_one_iteration = ["kimg=0.16", "log.every_kimg=0.02", "evaluate.every_kimg=null", "data.workers=0"]
    config = make_config({"data": {"path": str(data)}}, [*OVERRIDES, *rows_of_one_iteration])
    directory, said = RunDirectory(path), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(owner, name, slowly)
        train(prepare(config, directory), directory, world, progress=True)
    timings = [json.loads(line)["timing"] for line in directory.metrics_file.read_text().splitlines()]
    # Of the first row rank 0 spends most on grids, which nobody waits for
    return timings[1:], [line for line in said.getvalue().splitlines() if " img/s" in line][1:]


def test_a_rank_that_computes_slowly_is_named(ranks, digits, tmp_path):
    timings, lines = ranks(2).run(slow_on_rank_1, digits, tmp_path / "run", Trainer, "iterate")[0]
    named = [timing["slowest_rank"] == 1 and timing["slowest_rank_percent"] > 20 for timing in timings]
    assert sum(named) > len(named) / 2, timings
    for timing, line in zip(timings, lines, strict=True):
        slowest = f", rank {timing['slowest_rank']} slowest (+{timing['slowest_rank_percent']:.0f} %)"
        assert line.endswith(slowest) if timing["slowest_rank_percent"] > 20 else "slowest" not in line


def test_a_rank_that_reads_slowly_is_named(ranks, digits, tmp_path):
    """And is not taken for one that computes slowly: what it waits for is none of its work."""
    timings, _ = ranks(2).run(slow_on_rank_1, digits, tmp_path / "run", ShardDataset, "read_batch")[0]
    named = [timing["data_wait_rank"] == 1 and timing["data_wait_percent"] > 10 for timing in timings]
    mistaken = [timing["slowest_rank"] == 1 and timing["slowest_rank_percent"] >= 50 for timing in timings]
    assert sum(named) > len(named) / 2 > sum(mistaken), timings


def test_nothing_is_said_of_ranks_that_are_alike(digits):
    row = {"timing": {"slowest_rank": 1, "slowest_rank_percent": 20.0}, "loss/g": 1.0}
    assert numbers_text(row, make_config({"data": {"path": str(digits)}}, [])) == "G 1"


def test_one_rank_is_not_compared(whole):
    timings = [json.loads(line)["timing"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert timings
    for timing in timings:
        assert not {"slowest_rank", "slowest_rank_percent", "data_wait_rank"} & timing.keys()


def test_nothing_is_said_unless_asked_for(digits, tmp_path, capsys):
    run(digits, tmp_path / "run", 0.14)
    assert capsys.readouterr() == ("", "")


def test_event_files_of_quick_restarts_are_read_in_the_order_of_their_making(tmp_path):
    """Within a second their names are ordered by process and number, where 10 comes before 9."""
    made = int(time.time())
    (tmp_path / f"events.out.tfevents.{made}.host.1.9").touch()
    curves._wait_for_another_second(tmp_path)
    assert int(time.time()) > made
