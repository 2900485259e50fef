"""The demo, small: its own code on three little folders of images."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from spider.cli.main import app
from spider.demo.story import MEASURED, DemoResult, Plan, tell
from spider.errors import SpiderUsageError
from spider.judge.metrics.results import read_results
from spider.train.trainer import Trainer

SIDE_PX = 16
COUNT = 40
OVERRIDES = (
    "kimg=0.128",
    "batch=16",
    "generator.width=0.02",
    "discriminator.width=0.1",
    "evaluate.every_kimg=0.064",
    "evaluate.count=32",
    "log.every_kimg=0.032",
    "log.tensorboard=false",
)


def draw_folder(folder: Path, thickness_px: int, seed: int) -> str:
    """Gray images with one bar each."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(COUNT):
        pixels = rng.integers(0, 30, (SIDE_PX, SIDE_PX), dtype=np.uint8)
        top = rng.integers(0, SIDE_PX - thickness_px)
        pixels[top : top + thickness_px] = 255
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    images = tmp_path_factory.mktemp("images")
    thicknesses = {"bars": 4, "beams": 6, "blocks": 12}
    return Plan(
        datasets={name: draw_folder(images / name, px, seed=px) for name, px in thicknesses.items()},
        resolution=SIDE_PX,
        training_seeds=(0,),
        evaluation_seeds=2,
        overrides=OVERRIDES,
    )


@pytest.fixture(scope="module")
def told(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return tell(plan, tmp_path_factory.mktemp("demo"), progress=False)


def test_the_report_needs_nothing_beside_itself(told: DemoResult):
    html = told.report.read_text("utf-8")
    assert not re.search(r"<script|<link|@import|url\(|https?:", html)
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 2 + 3 + 3  # curves and training; samples; memorisation page of each
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_numbers_of_the_report_are_those_of_the_evaluations(told: DemoResult, plan: Plan):
    html = told.report.read_text("utf-8")
    for source, of_seeds in told.distances.items():
        results = read_results(told.report.parent / f"runs/{source}-seed0/evaluations/final.json")
        assert of_seeds == [[result.value for result in results if result.name == "fid"]]
        assert {result.name for result in results} == set(MEASURED)
        assert f"0: {np.mean(of_seeds):.3g} ±" in html
        for result in results:
            assert result.label in html
            assert result.protocol["embedding_digest"] in html
            assert result.provenance["reference"]["fingerprint"] in html
    assert "FID," not in html.replace("not FID,", "")


def test_the_first_and_the_last_of_the_ranking_feed_the_gans(told: DemoResult):
    ranking = json.loads((told.report.parent / "neighbors/neighbors.json").read_text())
    assert list(told.distances) == ["gaussian", ranking["rows"][0]["source"], ranking["rows"][-1]["source"]]


def test_what_is_done_is_not_done_again(told: DemoResult, plan: Plan, capsys: pytest.CaptureFixture[str]):
    out = told.report.parent
    before = times_of(out)
    again = tell(plan, out, progress=True)
    assert again.distances == told.distances
    assert times_of(out) == before
    steps = re.findall(r"\[(\d)/7\] (.*)", capsys.readouterr().err)
    assert [number for number, _ in steps] == list("1234567")
    assert all(line.endswith("done before") for _, line in steps[:-1])


def test_stopped_anywhere_it_goes_on_and_comes_to_the_same(
    told: DemoResult, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("data", "neighbors"):
        shutil.copytree(told.report.parent / name, tmp_path / name)
    iterate = Trainer.iterate
    calls = []

    def press_ctrl_c_twice(trainer: Trainer) -> None:
        iterate(trainer)
        calls.append(trainer.images)
        if len(calls) in (3, 10):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "iterate", press_ctrl_c_twice)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tell(plan, tmp_path, progress=False)
    resumed = tell(plan, tmp_path, progress=False)
    assert resumed.distances == told.distances
    assert calls == [16 * i for i in range(1, 9)] * 3  # three runs, no iteration twice


def test_the_commands_to_do_it_by_hand_are_commands(told: DemoResult):
    html = told.report.read_text("utf-8")
    setup, *lines = map(unescape, re.findall(r"<code>(.*?)</code>", html))
    assert setup == "export OMP_NUM_THREADS=1"
    group = typer.main.get_command(app)
    used = []
    for line in lines:
        program, name, *words = shlex.split(line)
        assert program == "spider"
        group.commands[name].make_context(name, words)  # raises if the words do not parse
        used.append(name)
    assert used == ["pack"] * 3 + ["neighbors"] + ["train"] * 3 + ["evaluate"] * 4


def test_one_of_several_processes_is_refused(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpiderUsageError, match="without torchrun"):
        tell(plan, tmp_path, progress=False)


def times_of(out: Path) -> dict[str, int]:
    """When each file was written, but those of the report."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.parent.name != "figures" and path.name != "report.html"
    }
