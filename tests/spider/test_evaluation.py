"""What of a set is measured when not all of it is."""

from __future__ import annotations

import shutil

import pytest

from cluster.world import World
from shards.pack import pack
from spider.config.load import make_config
from spider.errors import SpiderError
from spider.evaluation import evaluate
from spider.run import RunDirectory
from spider.train.loop import train


def test_a_counted_set_is_drawn_by_the_seed(digits):
    """Not its first images, which in a set sorted by class are a few classes."""

    def values(seeds):
        found = evaluate(
            digits, World.single(), reference=digits, metrics=["fid"], embedding="offline", count=60, seeds=seeds
        )
        return [result.value for result in found.results]

    first, second = values([0, 1])
    assert first != second
    assert values([1]) == [second]


def test_a_run_is_not_measured_against_what_has_come_in_place_of_its_training_images(digits, tmp_path):
    data, single = tmp_path / "data", World.single()
    shutil.copytree(digits, data)
    small = ["batch=8", "kimg=0.008", "generator.width=0.05", "discriminator.width=0.05"]
    config = make_config({"data": {"path": str(data)}}, small)
    train(config, RunDirectory(tmp_path / "run"), single, progress=False)
    measured = evaluate(tmp_path / "run", single, metrics=["fid"], embedding="offline", count=20, seeds=1)
    shutil.rmtree(data)
    fingerprint = pack("builtin:digits", data, subset=200, seed=1, workers=1, progress=False).fingerprint
    with pytest.raises(
        SpiderError, match=rf"{data} holds other images now .*{fingerprint}.*{measured.provenance['training']}"
    ):
        evaluate(tmp_path / "run", single, metrics=["fid"], embedding="offline", count=20, seeds=1)
