"""Runs whose images or source have moved, or whose packed copies are gone."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from spider.runs.directory import RunDirectory

OFFLINE = ["--embedding", "offline", "--metrics", "fid", "--count", "16", "--seeds", "1"]


def pictures(folder, seed):
    """24 grey images of 8 x 8."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(spider, tmp_path_factory, tiny):
    """A folder with reals/, source/, and the finished runs `fed` (by source/) and `cascade` (by fed)."""
    root = tmp_path_factory.mktemp("moved")
    data, source = pictures(root / "reals", 0), pictures(root / "source", 1)
    for name, feeds in (("fed", source), ("cascade", root / "fed")):
        words = ["--data", data, "--source", feeds, "--run", root / name, "--kimg", "0.04", *tiny]
        done = spider("train", "dcgan", *words)
        assert done.code == 0, done.err
    return root


@pytest.fixture
def place(trained, tmp_path):
    """A copy of it, with a way to forget all packed copies."""
    shutil.copytree(trained, tmp_path / "place")
    for name in ("fed", "cascade"):
        for file in ("config.yaml", "inputs.json"):
            path = tmp_path / "place" / name / file
            path.write_text(path.read_text().replace(str(trained), str(tmp_path / "place")))
    return tmp_path / "place"


@pytest.fixture
def forget(caches):
    """Clear the cache."""
    return lambda: shutil.rmtree(caches / "spider" / "packed", ignore_errors=True)


@pytest.fixture
def verbs(spider, tmp_path, tiny):
    """Every verb that needs a run's source, by name: call it with a run and further words."""
    return {
        "generate": lambda run, *words: spider("generate", run, "--seeds", "0", "--out", tmp_path / "out", *words),
        "evaluate": lambda run, *words: spider("evaluate", run, *OFFLINE, *words),
        "interpolate": lambda run, *words: spider(
            "interpolate", run, "--out", tmp_path / "i.png", "--steps", 2, *words
        ),
        "train": lambda run, *words: spider("train", "--run", run, "--kimg", "+0.008", *words),
    }


VERBS = ["generate", "evaluate", "interpolate", "train"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_outlives_the_cache(verbs, trained, forget, verb, tmp_path):
    run = shutil.copytree(trained / "fed", tmp_path / "run")
    forget()
    done = verbs[verb](run)
    assert done.code == 0, done.err


def test_images_are_the_same_wherever_their_source_lies(verbs, place, forget, tmp_path):
    assert verbs["generate"](place / "fed").code == 0
    before = (tmp_path / "out" / "seed000000.png").read_bytes()
    forget()
    (place / "source").rename(place / "elsewhere")
    assert verbs["generate"](place / "fed", "--source", place / "elsewhere").code == 0
    assert (tmp_path / "out" / "seed000000.png").read_bytes() == before


@pytest.mark.parametrize("verb", VERBS)
def test_packed_copies_outlive_the_folder(verbs, place, spider, verb, forget):
    assert verbs["generate"](place / "fed").code == 0  # packed again where another test cleared the cache
    words = ["train", "--run", place / "fed", "--kimg", "0.04"]
    assert spider(*words).code == 0
    for folder in ("source", "reals"):
        shutil.rmtree(place / folder)
    done = verbs[verb](place / "fed")
    assert done.code == 0, done.err


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("run", ["fed", "cascade"])
def test_what_feeds_a_run_may_move_if_one_says_where_once(verbs, place, forget, verb, run):
    forget()
    old, new = ("source", "elsewhere") if run == "fed" else ("fed", "first@run")
    (place / old).rename(place / new)
    lost = verbs[verb](place / run)
    assert lost.code == 2
    assert str(place / old) in lost.error
    assert "--source" in lost.error
    named = verbs[verb](place / run, "--source", place / new)
    assert named.code == 0, named.err
    again = verbs[verb](place / run)
    assert again.code == 0, again.err
    assert str(place / new) in (place / run / "config.yaml").read_text()


def test_a_finished_run_notes_where_its_images_are_now(spider, place, forget):
    """Though there is nothing to train."""
    forget()
    for old, new in (("source", "source2"), ("reals", "reals2")):
        (place / old).rename(place / new)
    done = spider("train", "--run", place / "fed", "--source", place / "source2", "--data", place / "reals2")
    assert "already finished" in done.out
    config = RunDirectory(place / "fed").config()
    assert (config.source.path, config.data.path) == (str(place / "source2"), str(place / "reals2"))
    assert spider("evaluate", place / "fed", *OFFLINE).code == 0


def test_training_images_that_moved_are_named_to_evaluate(spider, place, forget):
    forget()
    (place / "reals").rename(place / "reals2")
    lost = spider("evaluate", place / "fed", *OFFLINE)
    assert (lost.code, "--data" in lost.error, str(place / "reals") in lost.error) == (2, True, True)
    assert spider("evaluate", place / "fed", *OFFLINE, "--data", place / "reals2").code == 0
    assert spider("evaluate", place / "fed", *OFFLINE).code == 0


def test_a_reference_that_moved_is_named_by_its_key(spider, place, forget, tmp_path, tiny):
    reference = pictures(tmp_path / "reference", 5)
    measured = ["evaluate.every_kimg=0.04", "evaluate.embedding=offline", "evaluate.count=16"]
    run = ["train", "--run", tmp_path / "run", "--kimg"]
    words = ["dcgan", "--data", place / "reals", *tiny, *measured, f"evaluate.reference={reference}"]
    assert spider(*run, "0.04", *words).code == 0
    forget()
    reference.rename(tmp_path / "elsewhere")
    lost = spider(*run, "0.08")
    assert (lost.code, "evaluate.reference=PLACE" in lost.error, str(reference) in lost.error) == (2, True, True)
    assert spider(*run, "0.08", f"evaluate.reference={tmp_path / 'elsewhere'}").code == 0
    other = spider(*run, "0.12", f"evaluate.reference={place / 'source'}")
    assert (other.code, other.error.startswith("error: evaluate.reference: the run has the images of")) == (2, True)


@pytest.mark.parametrize("verb", VERBS)
def test_another_source_is_refused_and_both_are_named(verbs, place, verb):
    other = pictures(place / "other", 7)
    before = (place / "fed" / "config.yaml").read_text()
    refused = verbs[verb](place / "fed", "--source", other)
    assert refused.code == 2
    assert str(other) in refused.error
    assert str(place / "source") in refused.error
    assert (place / "fed" / "config.yaml").read_text() == before


def test_another_run_as_the_source_is_refused(spider, verbs, place, tiny):
    words = ["--data", place / "reals", "--run", place / "other", "--kimg", "0.04", "seed=9", *tiny]
    assert spider("train", "dcgan", "--source", place / "source", *words).code == 0
    refused = verbs["generate"](place / "cascade", "--source", place / "other")
    assert refused.code == 2
    assert "source.run" in refused.error
    assert "the run has read" in refused.error


def test_the_same_command_goes_on_when_the_run_that_feeds_has_gone_on(spider, place):
    assert spider("train", "--run", place / "fed", "--kimg", "0.08").code == 0
    done = spider("train", "--run", place / "cascade", "--source", place / "fed", "--kimg", "0.05")
    assert done.code == 0, done.err
    assert RunDirectory(place / "cascade").config().source.run == f"{place / 'fed'}@0.04"


def test_images_that_were_added_since_are_said_and_left_out(spider, place):
    assert spider("train", "--run", place / "fed", "--kimg", "0.048").code == 0
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "source" / "new.png")
    done = spider("train", "--run", place / "fed", "--source", place / "source", "--kimg", "0.056")
    assert done.code == 0, done.err
    assert "has changed since" in done.err


def test_a_run_that_cannot_be_written_is_still_used(verbs, place, forget, monkeypatch):
    forget()
    (place / "source").rename(place / "source2")

    def closed(*_):
        raise PermissionError(13, "Permission denied", "config.yaml")

    monkeypatch.setattr(RunDirectory, "write_config", closed)
    done = verbs["generate"](place / "fed", "--source", place / "source2")
    assert done.code == 0, done.err
    assert "warning" in done.err


def test_only_a_source_can_move(verbs, runs, digits, spider):
    assert "fed gaussian" in verbs["generate"](runs / "gaussian", "--source", digits).error
    refused = spider("evaluate", digits, "--reference", digits, "--source", digits, *OFFLINE)
    assert (refused.code, "--source" in refused.error) == (2, True)
    assert os.sep in str(digits)
