"""Checkpoints by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spider.config.load import load_config
from spider.errors import SpiderUsageError
from spider.runs.directory import RunDirectory, checkpoint_name, is_run, kimg_text, resolve


@pytest.mark.parametrize(
    ("asked", "found"),
    [("1", 1024), ("1.024", 1024), ("0.961", 1024), ("2", 2048), ("4.032", 4032), ("4.033", 4096), ("last", 4096)],
)
def test_a_checkpoint_is_found_by_the_kimg_at_which_it_was_due(tmp_path: Path, asked: str, found: int):
    assert resolve(f"{saved(tmp_path)}@{asked}").checkpoint == checkpoint_name(found)


@pytest.mark.parametrize("asked", ["0.96", "1.025", "3", "5"])
def test_no_checkpoint_stands_for_one_that_is_a_batch_away(tmp_path: Path, asked: str):
    with pytest.raises(SpiderUsageError, match=rf"no checkpoint at {asked} kimg; there are 1.024, 2.048, 4.032, 4.096"):
        resolve(f"{saved(tmp_path)}@{asked}")


@pytest.mark.parametrize("images", [64, 12_300, 25_000_448, 25_000_960, 1_000_000_064])
def test_the_kimg_that_is_printed_finds_the_checkpoint(tmp_path: Path, images: int):
    run = saved(tmp_path, images)
    assert resolve(f"{run}@{kimg_text(images)}").checkpoint == checkpoint_name(images)
    with pytest.raises(SpiderUsageError, match=f"there are {re.escape(kimg_text(images))}$"):
        resolve(f"{run}@1")


@pytest.mark.parametrize("asked", ["inf", "nan", "newest"])
def test_what_is_no_number_of_kimg_is_said(tmp_path: Path, asked: str):
    with pytest.raises(SpiderUsageError, match="after @ comes last, best or a number of kimg"):
        resolve(f"{saved(tmp_path)}@{asked}")


@pytest.mark.parametrize("name", ["a@b", "a@1", "@home", "a@b@c", "a@"])
def test_a_run_may_have_an_at_in_its_name(tmp_path: Path, name: str):
    """Though beside it lies one that has not."""
    saved(tmp_path / "a")
    run = saved(tmp_path / name)
    assert is_run(str(run))
    assert resolve(str(run)).directory.path == run
    for which in ("last", "1", "1.024"):
        assert resolve(f"{run}@{which}").directory.path == run
        assert is_run(f"{run}@{which}")
    assert resolve(str(resolve(str(run)))) == resolve(str(run))


def saved(folder: Path, *images_seen: int) -> Path:
    """A run in batches of 64 with a few checkpoints, as far as names go."""
    run = RunDirectory(folder)
    run.write_config(load_config("dcgan", ["batch=64", "data.path=nowhere"]))
    for images in images_seen or (1024, 2048, 4032, 4096):
        (run.checkpoints / checkpoint_name(images)).mkdir(parents=True)
    return folder
