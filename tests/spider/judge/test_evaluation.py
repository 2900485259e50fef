"""What of a set is measured when not all of it is."""

from __future__ import annotations

import hashlib
import shutil
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from cluster.world import World
from shards.errors import ShardsError
from shards.pack import pack
from spider.config.load import make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.conditions.conditions import Conditions
from spider.judge import evaluation
from spider.judge.embed.offline import OfflineEmbedding
from spider.judge.evaluation import evaluate
from spider.judge.metrics.registry import METRICS
from spider.judge.metrics.results import read_results
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


def test_what_feeds_a_generator_is_measured_beside_it(digits, patches, tmp_path):
    """By the same measures, as it is: a GAN may be worse than its own source."""
    small = ["batch=8", "kimg=0.008", "generator.width=0.05", "discriminator.width=0.05"]
    for name, fed in (("fed", ["source.kind=images", f"source.path={patches}"]), ("plain", [])):
        config = make_config({"data": {"path": str(digits)}}, [*small, *fed])
        train(config, RunDirectory(tmp_path / name), World.single(), progress=False)
    asked = {"metrics": ["fid", "coverage", "nearest"], "count": 60}
    found = measured(tmp_path / "fed", seeds=2, **asked)
    told = found.provenance["source_itself"]
    alone = measured(patches, reference=digits, seeds=[0], **asked)
    assert told["values"] == {each.label: pytest.approx(each.value) for each in alone.results}
    assert f"its source itself, {told['name']} (60 images): FD[offline] {alone.results[0].value:.5g}, " in found.table()
    assert "source_itself" not in measured(tmp_path / "plain", seeds=1, **asked).provenance


def values(found):
    return {result.name: result.value for result in found.results}


def by_moments_on(world, subject, file):
    """On a rank: what a file with mean and covariance serves."""
    return values(measured(subject, world, reference=file, metrics=["fid", "fd_infinity", "vendi"], count=150))


def test_a_file_of_the_references_features_gives_the_numbers_of_its_images(digits, patches, tmp_path, ranks):
    """Of its mean and covariance alone, the Fréchet distance; on any number of ranks."""
    metrics = [name for name, metric in METRICS.items() if not (metric.needs_logits or metric.needs_classes)]
    file = tmp_path / "patches.npz"
    images = measured(digits, reference=patches, metrics=metrics, reference_out=file, count=150)
    given = measured(digits, reference=file, metrics=metrics, count=150)
    assert values(given) == values(images)
    told = given.results[0].provenance["reference"]
    assert (told["file"], told["made_with"], told["made_with_according_to"]) == (str(file), "offline", "the file")
    assert told["fingerprint"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert given.provenance["notes"] == []

    with np.load(file) as both:
        np.savez(tmp_path / "moments.npz", mu=both["mu"], sigma=both["sigma"])
        np.save(tmp_path / "rows.npy", both["feats"])
    moments = measured(digits, reference=tmp_path / "moments.npz", metrics=["fid", "fd_infinity", "vendi"], count=150)
    for name, value in values(moments).items():
        assert value == pytest.approx(values(images)[name], rel=1e-9)
    assert ranks(2).run(by_moments_on, digits, tmp_path / "moments.npz") == [pytest.approx(values(moments))] * 2
    assert "digits (150 images) against moments.npz (mu and sigma), offline" in moments.table()
    assert "which does not say what it was made with; offline was asked for" in moments.table()
    rows = measured(digits, reference=tmp_path / "rows.npy", metrics=["fid", "kid"], count=150)
    assert values(rows) == {name: values(images)[name] for name in ("fid", "kid")}


def test_what_a_file_cannot_give_is_refused_in_one_line(digits, tmp_path):
    dim = OfflineEmbedding().dim
    moments, rows = tmp_path / "moments.npz", tmp_path / "rows.npy"
    np.savez(moments, mu=np.zeros(dim), sigma=np.eye(dim))
    np.save(rows, np.random.default_rng(0).standard_normal((50, dim)))
    for metrics, file, said in (
        (["fid", "recall"], moments, r"metric 'recall' needs the features of every image; .*mu and sigma"),
        (["fid_class"], rows, r"metric 'fid_class' needs classes, and .*rows.npy has none"),
    ):
        with pytest.raises(SpiderUsageError, match=said):
            measured(digits, reference=file, metrics=metrics)
    with pytest.raises(SpiderUsageError, match=r"figures show images of the reference, and .*rows.npy holds features"):
        measured(digits, reference=rows, figures=tmp_path)
    for protocol, said in (("dgm_eval", "weights dinov2_vitl14: "), ("icgan", "swav_resnet50"), ("prdc", "inception")):
        with pytest.raises(SpiderError, match=said):
            EvaluateRequest(digits, reference=rows, protocol=protocol).require_inputs()
    for asked, said in (
        ({"reference": tmp_path / "stats.pkl"}, r"--reference .*stats.pkl: a pickle is code, and is not read"),
        ({"reference": rows, "reference_out": tmp_path / "b.npz"}, "the reference lies in a file already"),
        ({"reference": digits, "reference_out": tmp_path / "b.txt"}, r"b.txt: the name ends in .npz or .npy"),
    ):
        (tmp_path / "stats.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        with pytest.raises(SpiderUsageError, match=said):
            EvaluateRequest(digits, embedding="offline", **asked).require_inputs()


def test_a_metric_that_needs_training_images_is_given_them(trained, patches, monkeypatch):
    """Also where no page is due, which needs them anyhow."""
    monkeypatch.setattr("spider.judge.evaluation.FEW_IMAGES", 0)
    for name in [name for name, metric in METRICS.items() if metric.needs_training]:
        (result,) = measured(trained, reference=patches, metrics=[name], count=30, seeds=1).results
        assert result.provenance["training"]["count"] == 300, name
    assert result.protocol["held_out_images"] == 200


def learnt_on(world):
    """On a rank: what is known of training images that rank 1 alone cannot open."""

    def opened(*_):
        if world.rank == 1:
            raise ShardsError("gone")
        return "images"

    with mock.patch.object(evaluation, "_training_images", opened):
        request = EvaluateRequest("run", reference="r", metrics=("fid",))
        return evaluation._learnt(None, SimpleNamespace(conditions=Conditions()), request, world)


def test_training_images_that_one_rank_lacks_no_rank_has(ranks):
    assert [[*found] for found in ranks(2).run(learnt_on)] == [[None, ["no memorisation page: gone"]]] * 2


def measured_on(world, run, reference):
    """On a rank: a metric of each kind; all of them are in metrics/test_evaluate.py."""
    found = measured(
        run,
        world,
        reference=reference,
        metrics=["fid", "kid", "precision", "coverage", "csid", "nearest", "mind"],
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
    for size in (2, 4):
        for found in ranks(size).run(measured_on, tmp_path / "run", tmp_path / "reference"):
            assert found.keys() == alone.keys()
            for name, (value, std) in alone.items():
                assert found[name][0] == pytest.approx(value, rel=1e-9), (size, name)
                assert (found[name][1] or 0) == pytest.approx(std or 0, rel=1e-9), (size, name)


def moved_on(world, subject):
    """On a rank: metrics of a generator itself."""
    with mock.patch("spider.judge.path_length.AT_ONCE", 8):
        return values(measured(subject, world, metrics=["ppl_zend", "ppl_zfull"], count=11, seeds=1))


def test_metrics_of_a_generator_itself_need_no_reference_and_no_embedding(trained, ranks, tmp_path, monkeypatch):
    """Two blocks of pairs, the second cut short; on any number of ranks. Beside metrics of images in one table."""
    monkeypatch.setattr("spider.judge.path_length.AT_ONCE", 8)
    alone = EvaluateRequest(trained, metrics="ppl_zend,ppl_zfull", count=11, seeds=1, out=tmp_path / "found.json")
    with mock.patch("spider.judge.evaluation.open_embedding", side_effect=AssertionError("no embedding is needed")):
        alone.require_inputs()
        found = evaluate(alone, World.single())
    assert min(values(found).values()) > 0
    assert values(found)["ppl_zend"] != values(found)["ppl_zfull"]
    assert read_results(tmp_path / "found.json") == found.results
    assert ranks(2).run(moved_on, trained) == [values(found)] * 2
    lines = found.table().splitlines()
    assert lines[0].endswith("(11 images)")
    assert "PPL z end by PD[efficientnet]" in lines[2]

    both = measured(trained, metrics=["ppl_zend", "fid"], count=11, seeds=2)
    assert [result.name for result in both.results if result.name != "nearest"] == [*2 * ["fid"], *2 * ["ppl_zend"]]
    assert both.results[-2].value == values(found)["ppl_zend"]
    assert "FD[offline]" in both.table() and "by PD[efficientnet]" in both.table()  # noqa: PT018


def test_metrics_of_a_generator_are_refused_where_they_mean_nothing(trained, digits, tmp_path):
    for asked, said in (
        ({"metrics": "ppl_wend"}, r"space=w: this generator has no mapping network"),
        ({"metrics": "eq_t"}, r"generator\.kind=stylegan3"),
        ({"metrics": "eq_t", "reference": digits}, r"--reference .*: --metrics eq_t compares with no images"),
        ({"metrics": "eq_t", "figures": tmp_path}, r"--figures .*: --metrics eq_t compares with no images"),
    ):
        with pytest.raises(SpiderUsageError, match=said):
            measured(trained, count=4, seeds=1, **asked)
    with pytest.raises(SpiderUsageError, match=r"metric 'eq_t' is of a generator, and .* is a set of images"):
        measured(digits, reference=digits, metrics="fid,eq_t", count=4)
