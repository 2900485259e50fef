"""What cannot be is refused before the first step, by its key, and leaves the run's folder as it was."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from cluster.lock import LOCK
from shards.pack import pack
from spider import api
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed.offline import OfflineEmbedding
from spider.judge.metrics.results import read_results
from spider.train.trainer import Trainer

SMALL = ["batch=8", "kimg=0.04", "generator.width=0.05", "discriminator.width=0.05", "log.samples=4"]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No weights, whatever the user has."""
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_step(monkeypatch):
    """From here on nothing may train."""

    def refuse(trainer):
        raise AssertionError("a step was made")

    monkeypatch.setattr(Trainer, "iterate", refuse)


def files(folder):
    """Every file of a run, with its bytes and when it was written; not the lock, which says who tried last."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["evaluate.metrics=[fid,fidd]"], r"^evaluate\.metrics=.*: metric 'fidd' is unknown; known: fid,"),
        (["evaluate.metrics=[is]"], r"^evaluate\.metrics: metric 'is' needs class logits"),
        (["evaluate.metrics=[nearest]"], r"^evaluate\.metrics: nearest comes first"),
        (
            ["evaluate.embedding=online"],
            r"^evaluate\.embedding=online: .*embedding 'online' is unknown; known: inception",
        ),
        (["evaluate.embedding=inception"], r"^evaluate\.embedding=inception: .*spider weights get inception"),
        (["evaluate.protocol=tf"], r"^evaluate\.embedding: protocol 'tf' is not offline's"),
        (["evaluate.protocol=mine"], r"^evaluate\.protocol=mine: .*protocol 'mine' is unknown"),
    ],
    ids=["unknown", "no-logits", "no-order", "no-embedding", "no-weights", "not-its-protocol", "no-protocol"],
)
def test_what_cannot_be_measured_is_refused_at_the_start(digits, tmp_path, no_step, overrides, says):
    keys = [*SMALL, "evaluate.every_kimg=0.04", "evaluate.embedding=offline", *overrides]
    with pytest.raises(SpiderError, match=says):
        api.train("dcgan", tmp_path / "run", data=digits, overrides=keys)
    assert not (tmp_path / "run").exists()


def test_a_training_is_measured_by_a_file_of_its_references_features(digits, tmp_path, monkeypatch):
    """Its bytes are known to the run, as other inputs' are; a run that goes on refuses others."""
    monkeypatch.chdir(tmp_path)
    dim = OfflineEmbedding().dim
    np.savez("ref.npz", mu=np.zeros(dim), sigma=np.eye(dim))
    np.savez("other.npz", mu=np.ones(dim), sigma=np.eye(dim))
    keys = [*SMALL, "evaluate.every_kimg=0.04", "evaluate.embedding=offline", "evaluate.count=8"]
    by_file = [*keys, "evaluate.reference=ref.npz"]
    with pytest.raises(SpiderUsageError, match=r"^evaluate\.metrics: metric 'kid' needs the features of every image; "):
        api.train("dcgan", "run", data=digits, overrides=[*by_file, "evaluate.metrics=[fid,kid]"])
    with pytest.raises(SpiderError, match=r"^evaluate\.reference: .*none\.npy: no such file"):
        api.train("dcgan", "run", data=digits, overrides=[*keys, "evaluate.reference=none.npy"])
    assert api.dry_run("dcgan", "run", data=digits, overrides=by_file).evaluation.reference_sec == 0
    api.train("dcgan", "run", data=digits, overrides=by_file)
    (file,) = (tmp_path / "run" / "evaluations").glob("*.json")
    (fid,) = read_results(file)
    assert fid.provenance["reference"]["file"] == str(tmp_path / "ref.npz")
    digest = hashlib.sha256((tmp_path / "ref.npz").read_bytes()).hexdigest()
    recorded = json.loads((tmp_path / "run" / "inputs.json").read_text())["evaluate.reference"]
    assert recorded["fingerprint"] == fid.provenance["reference"]["fingerprint"] == digest
    with pytest.raises(SpiderUsageError, match=r"^evaluate\.reference: .*other.npz holds something else"):
        api.train(None, "run", kimg="0.08", overrides=["evaluate.reference=other.npz"])


def on_a_rank(world, data, path):
    """On a rank: how the start of a run with a batch of 9 ends."""
    try:
        return api.train("dcgan", path, data=data, overrides=[*SMALL, "batch=9"], world=world)
    except SpiderUsageError as error:
        return error.exit_code, str(error)


def test_a_batch_that_does_not_divide_over_the_ranks_is_refused_on_every_rank(ranks, digits, tmp_path):
    refused = (2, "batch=9 does not divide over 2 ranks x accumulation=1")
    assert ranks(2).run(on_a_rank, digits, tmp_path / "run") == [refused] * 2
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(digits, patches, tmp_path_factory):
    """A run that is through, and what it was fed."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copytree(patches, root / "source")
    source = ["source.noise_std=0.1", "evaluate.every_kimg=0.02", "evaluate.embedding=offline", "evaluate.count=8"]
    api.train("dcgan", root / "run", data=digits, source=root / "source", overrides=[*SMALL, *source])
    return root


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "other"}, r"data\.path: the run has .*digits .*, now .*other .*; use another --run$"),
        ({"source": "other"}, r"source\.path: the run has .*source .*, now .*other .*; use another --run$"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"overrides": ["batch=12"]}, "batch: 8 -> 12"),
        ({"overrides": ["evaluate.reference=other"]}, r"evaluate\.reference: the run was measured by"),
        (
            {"overrides": ["evaluate.weights=other/index.json"]},
            r"evaluate\.embedding: embedding offline has no weights",
        ),
    ],
    ids=["data", "source", "seed", "batch", "reference", "weights"],
)
def test_a_refused_resume_leaves_everything_as_it_was(finished, no_step, monkeypatch, change, says):
    """Though it would have made the run longer."""
    monkeypatch.chdir(finished)
    pack("builtin:digits", "other", subset=64, workers=1, progress=False)
    before = files(finished / "run")
    assert finished / "run" / "_SUCCESS" in before
    with pytest.raises(SpiderError, match=says):
        api.train(None, finished / "run", kimg="0.08", **change)
    assert files(finished / "run") == before


def test_a_resume_is_measured_by_the_weights_that_the_best_was(finished, no_step, monkeypatch):
    monkeypatch.setattr("spider.judge.embed.offline._digest", lambda: "0" * 64)
    before = files(finished / "run")
    with pytest.raises(SpiderError, match=r"evaluate\.weights: the run was measured by [0-9a-f]{64}, this .* by 0+$"):
        api.train(None, finished / "run", kimg="0.08")
    assert files(finished / "run") == before


def test_images_may_move_but_must_stay_what_they_are(digits, tmp_path):
    run, here, there = tmp_path / "run", tmp_path / "here", tmp_path / "there"
    shutil.copytree(digits, here)
    api.train("dcgan", run, data=here, overrides=SMALL)
    here.rename(there)
    assert api.train(None, run, data=there) == "already finished"
    pack("builtin:digits", tmp_path / "other", subset=64, workers=1, progress=False)
    shutil.copytree(there, here)
    for _ in range(2):
        with pytest.raises(SpiderUsageError, match=r"data\.path: the run has the images of .*there .*, now .*other"):
            api.train(None, run, data=tmp_path / "other")
        shutil.rmtree(there, ignore_errors=True)
    (run / "inputs.json").unlink()  # as of a run that an older version made
    with pytest.raises(SpiderError, match="data: the checkpoint was trained on"):
        api.train(None, run, data=tmp_path / "other")


def test_a_run_of_other_random_numbers_is_refused_by_name(digits, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as older:
        older.setattr("spider.train.trainer.STATE_FORMAT", 1)
        api.train("dcgan", run, data=digits, overrides=SMALL)
    for verb in (lambda: api.train(None, run, kimg="+0.016"), lambda: api.generate(run, out=tmp_path / "out")):
        with pytest.raises(SpiderError, match=r"of another version \(format 1 of a run's state; this one has 2\)"):
            verb()
