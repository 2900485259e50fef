"""What of a set is measured when not all of it is."""

from __future__ import annotations

import shutil

import pytest

from cluster.world import World
from shards.pack import pack
from spider.config.load import make_config
from spider.errors import SpiderError
from spider.judge.embed.offline import OfflineEmbedding
from spider.judge.evaluation import evaluate
from spider.judge.metrics.registry import METRICS
from spider.judge.request import EvaluateRequest
from spider.runs.directory import RunDirectory
from spider.train.loop import train


def measured(subject, world=None, metrics=("fid",), **more):
    request = EvaluateRequest(subject, metrics=metrics, embedding="offline", **more)
    return evaluate(request, world or World.single())


def test_a_counted_set_is_drawn_by_the_seed(digits):
    """Not its first images, which in a set sorted by class are a few classes."""

    def values(seeds):
        found = measured(digits, reference=digits, count=60, seeds=seeds)
        return [result.value for result in found.results]

    first, second = values([0, 1])
    assert first != second
    assert values([1]) == [second]


def test_a_set_that_was_measured_is_a_reference_without_another_pass(digits, patches, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    passes = []
    features = OfflineEmbedding.features
    monkeypatch.setattr(OfflineEmbedding, "features", lambda self, images: passes.append(1) or features(self, images))
    for subject, reference in ((digits, patches), (patches, digits)):
        before = len(passes)
        measured(subject, reference=reference)
    assert len(passes) == before > 0


def test_a_run_is_not_measured_against_what_has_come_in_place_of_its_training_images(digits, tmp_path):
    data, single = tmp_path / "data", World.single()
    shutil.copytree(digits, data)
    small = ["batch=8", "kimg=0.008", "generator.width=0.05", "discriminator.width=0.05"]
    config = make_config({"data": {"path": str(data)}}, small)
    train(config, RunDirectory(tmp_path / "run"), single, progress=False)
    before = measured(tmp_path / "run", count=20, seeds=1)
    shutil.rmtree(data)
    fingerprint = pack("builtin:digits", data, subset=200, seed=1, workers=1, progress=False).fingerprint
    with pytest.raises(
        SpiderError, match=rf"{data} holds other images .*{fingerprint}.*{before.provenance['training']}"
    ):
        measured(tmp_path / "run", count=20, seeds=1)


def measured_on(world, run, reference):
    """On a rank: every metric that needs neither logits nor classes."""
    found = measured(
        run,
        world,
        reference=reference,
        metrics=[name for name, metric in METRICS.items() if not (metric.needs_logits or metric.needs_classes)],
        count=600,
        seeds=1,
    )
    return {result.name: (result.value, result.std) for result in found.results}


def test_a_checkpoint_is_measured_alike_on_one_two_four_ranks(ranks, digits, tmp_path):
    """With more than 2d images, so that the Fréchet distance is well defined."""
    pack("builtin:digits", tmp_path / "reference", subset=600, workers=1, progress=False)
    small = ["batch=20", "kimg=0.4", "generator.width=0.1", "discriminator.width=0.1"]
    config = make_config({"data": {"path": str(digits)}}, small)
    train(config, RunDirectory(tmp_path / "run"), World.single(), progress=False)
    alone = measured_on(World.single(), tmp_path / "run", tmp_path / "reference")
    assert {"fid", "kid", "precision", "coverage", "csid", "nearest"} <= set(alone)
    for size in (2, 4):
        for found in ranks(size).run(measured_on, tmp_path / "run", tmp_path / "reference"):
            assert found.keys() == alone.keys()
            for name, (value, std) in alone.items():
                assert found[name][0] == pytest.approx(value, rel=1e-9), (size, name)
                assert (found[name][1] or 0) == pytest.approx(std or 0, rel=1e-9), (size, name)
