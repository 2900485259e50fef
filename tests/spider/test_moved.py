"""A run whose inputs moved, whose packed copies are gone, or whose name is odd; and several that pack at once."""

from __future__ import annotations

import multiprocessing
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from shards.errors import ShardsError
from spider import api
from spider.cli.main import app
from spider.data import open_images
from spider.errors import SpiderError, SpiderUsageError
from spider.run import RunDirectory

SMALL = ["batch=8", "generator.width=0.05", "discriminator.width=0.05", "log.samples=4", "log.tensorboard=false"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pictures(folder, seed=0, count=24):
    """A folder of grey pictures, 8 x 8."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(tmp_path, digits):
    """A finished Spider run, fed from a folder of pictures."""
    source = pictures(tmp_path / "source")
    api.train("spider-dcgan", tmp_path / "run", data=digits, source=source, kimg=0.016, overrides=SMALL)
    return tmp_path / "run"


def made(run, out, **options):
    """What `generate` writes."""
    api.generate(run, seeds="0-3", out=out, **options)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_run_outlives_the_packed_copy_and_the_place_of_its_source(run, tmp_path, cache):
    whole = made(run, tmp_path / "whole")
    assert RunDirectory(run).config().source.path == str(tmp_path / "source")
    shutil.rmtree(cache)
    assert made(run, tmp_path / "packed-again") == whole

    (tmp_path / "source").rename(tmp_path / "moved")
    for verb in (api.generate, api.interpolate):
        with pytest.raises(SpiderUsageError, match=r"source: no such file or folder.*--source says where it lies now"):
            verb(run, out=tmp_path / "nothing")
    assert made(run, tmp_path / "told", source=tmp_path / "moved") == whole
    api.interpolate(run, tmp_path / "between.png", source=tmp_path / "moved", steps=2)
    found = api.evaluate(run, source=tmp_path / "moved", metrics="fid", embedding="offline", count=300, seeds=1)
    assert found.results[0].value is not None

    other = pictures(tmp_path / "other", seed=1)
    with pytest.raises(SpiderError, match=r"the run was fed images [0-9a-f]+ .* its source now is images [0-9a-f]+ "):
        made(run, tmp_path / "nothing", source=other)
    with pytest.raises(SpiderError, match="source"):
        api.train(None, run, source=other)
    # Told once, a training remembers it, also where there is nothing left to train
    assert api.train(None, run, source=tmp_path / "moved") == "already finished"
    assert made(run, tmp_path / "remembered") == whole
    (tmp_path / "moved").rename(tmp_path / "again")
    assert api.train(None, run, source=tmp_path / "again", kimg="+0.016") == "finished"


def test_a_prior_lies_nowhere(tmp_path, digits):
    api.train("dcgan", tmp_path / "run", data=digits, kimg=0.008, overrides=SMALL)
    with pytest.raises(SpiderUsageError, match="fed by kind=gaussian, which lies nowhere"):
        api.generate(tmp_path / "run", out=tmp_path / "out", source=digits)


def test_a_name_may_hold_an_at(tmp_path, digits):
    for name in ("a@b", "a@2"):
        run = tmp_path / name
        api.train("dcgan", run, data=digits, kimg=0.008, overrides=SMALL)
        api.generate(run, seeds="0", grid=tmp_path / "grid.png")
        api.generate(f"{run}@last", seeds="0", grid=tmp_path / "grid.png")
        api.generate(f"{run}@0.008", seeds="0", grid=tmp_path / "grid.png")


def open_and_count(folder, results):
    results.put(len(open_images(folder, progress=True)))


def test_several_that_want_one_copy_pack_once(tmp_path, monkeypatch):
    """One packs, the others wait for it. If it dies, another takes over."""
    folder = pictures(tmp_path / "many", count=60)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=open_and_count, args=(folder, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=300) for _ in processes] == [60] * 3
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(list((tmp_path / "cache" / "packed").iterdir())) == 1


def hold(lock, held):
    import fcntl

    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held.set()
        time.sleep(3600)


def test_one_that_waits_goes_on_when_the_packer_dies(tmp_path, capfd):
    folder = pictures(tmp_path / "many")
    copy = open_images(folder).path
    shutil.rmtree(copy)
    context = multiprocessing.get_context("fork")
    held, results = context.Event(), context.Queue()
    packer = context.Process(target=hold, args=(type(folder)(copy) / ".packing" / "lock", held))
    packer.start()
    assert held.wait(300)
    waiting = context.Process(target=open_and_count, args=(folder, results))
    waiting.start()
    while "another process is packing these images; waiting for it" not in capfd.readouterr().err:
        time.sleep(0.05)
    packer.kill()
    assert results.get(timeout=300) == 24
    for process in (packer, waiting):
        process.join()


def test_another_size_than_the_references_is_said(tmp_path, digits):
    api.train("dcgan", tmp_path / "run", data=digits, kimg=0.008, overrides=SMALL)
    larger = tmp_path / "larger"
    api.pack(digits, larger, resolution=16)
    found = api.evaluate(tmp_path / "run", reference=larger, metrics="fid", embedding="offline", count=300, seeds=1)
    assert "! the images are 8x8 grey, the reference 16x16 grey" in found.table()
    assert found.as_json()["provenance"]["notes"]
    same = api.evaluate(tmp_path / "run", reference=digits, metrics="fid", embedding="offline", count=300, seeds=1)
    assert "reference 8x8" not in same.table()


EMPTY = [
    ["train", "dcgan", "--data", "", "--run", "x"],
    ["train", "dcgan", "--data", "x", "--run", ""],
    ["train", "dcgan", "--data=", "--run", "x"],
    ["train", "", "--data", "x", "--run", "x"],
    ["train", "dcgan", "--data", "x", "--run", "  "],
    ["pack", "", "out"],
    ["pack", "builtin:digits", ""],
    ["generate", "run", "--out", ""],
    ["evaluate", "run", "--reference", ""],
    ["interpolate", "run", "--out", ""],
    ["neighbors", "a", "b", "--out", ""],
    ["sweep", "s.yaml", "--out", ""],
    ["launch", "dcgan", "--run", "", "--slurm", "local"],
    ["status", ""],
    ["demo", "--out", ""],
]


@pytest.mark.parametrize("words", EMPTY, ids=" ".join)
def test_an_empty_word_is_refused_before_the_work(words, tmp_path, monkeypatch):
    """An unset variable of a shell would mean the current folder."""
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 2
    assert "is empty: is a variable of the shell unset?" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["source.path", "source.run", "evaluate.reference", "evaluate.weights", "data.path"])
def test_an_empty_path_in_a_configuration_is_refused(key, tmp_path, digits):
    kind = {"source.path": ["source.kind=images"], "source.run": ["source.kind=generator"]}.get(key, [])
    with pytest.raises((SpiderError, ShardsError), match=key):
        api.train("dcgan", tmp_path / "run", data=digits, kimg=0.008, overrides=[*SMALL, *kind, f"{key}='  '"])


@pytest.mark.parametrize("arguments", [{"data": ""}, {"source": ""}, {"run": " "}])
def test_an_empty_path_through_python_is_refused(arguments, tmp_path, digits):
    arguments = {"run": tmp_path / "run", "data": digits, **arguments}
    with pytest.raises(SpiderUsageError, match="is empty"):
        api.train("dcgan", overrides=SMALL, kimg=0.008, **arguments)
