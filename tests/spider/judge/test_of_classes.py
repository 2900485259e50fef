"""A run of classes judged by some of them: which samples, which reference, and with what its numbers compare."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.world import World
from shards.dataset import ShardDataset
from shards.pack import pack
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.judge.compare import _incomparable
from spider.judge.evaluation import evaluate
from spider.judge.metrics.results import read_results, table
from spider.judge.request import EvaluateRequest
from spider.runs.directory import RunDirectory
from spider.runs.generator import open_generator
from spider.study.ended import answers
from spider.train.loop import train

SMALL = ["batch=8", "kimg=0.008", "generator.width=0.05", "discriminator.width=0.05", "log.samples=4"]
EVALUATE = ["evaluate.every_kimg=0.008", "evaluate.embedding=offline", "evaluate.count=40"]


def measured(subject, metrics=("fid", "nearest"), **more):
    request = EvaluateRequest(subject, metrics=metrics, embedding="offline", count=40, seeds=1, **more)
    return evaluate(request, World.single())


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """60 digits and 90 letters of 8x8 px without labels, and both as classes: a folder."""
    out = tmp_path_factory.mktemp("sets")
    for name, count in (("digits", 60), ("letters", 90)):
        pack(
            f"builtin:{name}", out / name, resolution=8, subset=count, labels="none", workers=1, progress=False,
        )  # fmt: skip
    pack(out / "digits", out / "both", join=[out / "letters"], workers=1, progress=False)
    return out


@pytest.fixture(scope="module")
def runs(sets, tmp_path_factory):
    """`plain` has learnt digits, `joint` both and is judged by digits: a folder."""
    out = tmp_path_factory.mktemp("runs")
    of_digits = ["condition.kind=class", "evaluate.classes=digits"]
    for name, data, more in (("plain", "digits", []), ("joint", "both", of_digits)):
        config = make_config({"data": {"path": str(sets / data)}}, [*SMALL, *EVALUATE, *more])
        train(config, RunDirectory(out / name), World.single(), progress=False)
    return out


def test_samples_are_of_the_classes_in_the_proportions_of_the_data(runs):
    conditions = open_generator(str(runs / "joint"), World.single().device).conditions

    def drawn(classes):
        return np.bincount(conditions.among(classes).at(0, range(2000), World.single().device).labels, minlength=2)

    assert drawn(["digits"]).tolist() == [2000, 0]
    assert drawn(["1"]).tolist() == [0, 2000]
    both = drawn(["letters", "digits"])
    assert both.tolist() == np.bincount(conditions.at(0, range(2000), World.single().device).labels).tolist()
    assert both[0] / 2000 == pytest.approx(60 / 150, abs=0.04)


def judged_on(world, run):
    """On a rank: from outside of the training, by the run's own classes."""
    request = EvaluateRequest(run, metrics=("fid", "kid", "nearest"), embedding="offline", count=40, seeds=1)
    return [(result.name, result.value) for result in evaluate(request, world).results]


def trained_on(world, data, folder):
    """On a rank: what the training itself found at its end."""
    words = [*SMALL, *EVALUATE, "condition.kind=class", "evaluate.classes=digits"]
    train(make_config({"data": {"path": str(data)}}, words), RunDirectory(folder), world, progress=False)
    return RunDirectory(folder).best()["value"]


def test_the_numbers_are_the_same_on_two_ranks(ranks, runs, sets, tmp_path):
    expected = judged_on(World.single(), runs / "joint")
    for found in ranks(2).run(judged_on, runs / "joint"):
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)
    best = RunDirectory(runs / "joint").best()["value"]
    assert ranks(2).run(trained_on, sets / "both", tmp_path / "run") == [pytest.approx(best, rel=1e-3)] * 2


def test_the_reference_is_known_to_be_the_images_of_the_class_alone(runs, sets):
    """By content: what another run learnt from, and not the folder. So the numbers compare, also of the curves."""
    joint, plain = measured(runs / "joint"), measured(runs / "plain")
    fingerprint = ShardDataset(sets / "digits").fingerprint
    for result, other in zip(joint.results, plain.results, strict=True):
        assert result.protocol["classes"] == ["digits"]
        assert result.provenance["samples"]["classes"] == ["digits"]
        assert result.provenance["reference"]["fingerprint"] == fingerprint
        assert result.provenance["reference"]["count"] == 60
        assert result.way() == other.way()
    assert joint.provenance["reference"] == "training"
    assert "joint@0.008 (40 images of digits) against both (60 images of digits), offline" in joint.table()
    curves = [{0.008: read_results(next((runs / name / "evaluations").glob("*.json")))} for name in ("joint", "plain")]
    assert curves[0][0.008][0].protocol["classes"] == ["digits"]
    assert _incomparable(["joint", "plain"], curves) == []


def test_what_is_asked_for_comes_before_what_the_run_says_and_differs_aloud(runs, sets, tmp_path):
    digits, letters = measured(runs / "joint"), measured(runs / "joint", classes=["letters"])
    assert letters.results[0].provenance["reference"]["fingerprint"] == ShardDataset(sets / "letters").fingerprint
    warned = _incomparable(["a", "b"], [{1: digits.results}, {1: letters.results}])
    assert warned[0].endswith("measured with different reference")
    both = measured(runs / "joint", classes=[0, 1])
    assert both.results[0].provenance["reference"]["fingerprint"] == ShardDataset(sets / "both").fingerprint
    held_out = {"reference": sets / "letters", "metrics": ["fid"]}
    of_one, of_all = (measured(runs / "joint", classes=which, **held_out) for which in (["digits"], ["0", "1"]))
    warned = _incomparable(["a", "b"], [{1: of_one.results}, {1: of_all.results}])
    assert warned[0].endswith("measured with different classes")


def test_a_study_measures_again_what_was_of_other_classes(runs):
    results = measured(runs / "joint").results

    def answered(*classes):
        request = EvaluateRequest(
            runs / "joint", metrics=["fid", "nearest"], embedding="offline", count=40, seeds=1, classes=classes
        )
        return answers(request, results)

    assert answered()
    assert answered("digits")
    assert not answered("letters")
    assert not answered("digits", "letters")


def test_samples_of_all_classes_alike_are_measured_on_request(runs, sets):
    conditions = open_generator(str(runs / "joint"), World.single().device).conditions.with_classes_alike()
    labels = np.bincount(conditions.at(0, range(2000), World.single().device).labels)
    assert labels / 2000 == pytest.approx([0.5, 0.5], abs=0.04)
    asked = {"reference": sets / "both", "classes": [0, 1], "metrics": ["fid"]}
    as_learnt, balanced = (measured(runs / "joint", balanced=which, **asked).results[0] for which in (False, True))
    assert balanced.protocol["rebalanced"]
    assert "rebalanced" not in as_learnt.protocol
    of_training = measured(runs / "joint", balanced=True, classes=[0, 1], metrics=["fid"])
    warned = _incomparable(["a", "b"], [{1: [as_learnt]}, {1: [balanced]}])
    assert warned[0].endswith("measured with different rebalanced")
    assert "(40 images of digits, letters, all classes alike) against both" in table([balanced])
    assert any("are of all classes alike and the reference" in note for note in of_training.provenance["notes"])
    request = EvaluateRequest(runs / "joint", metrics=["fid"], embedding="offline", count=40, seeds=1, balanced=True)
    assert [answers(request, [each]) for each in (as_learnt, balanced)] == [False, True]


def test_the_memorisation_page_shows_images_of_the_class(runs, tmp_path, monkeypatch):
    from spider.judge.metrics import memorisation_page

    seen = []
    monkeypatch.setattr(memorisation_page, "draw_page", lambda file, found, pictures: seen.append(pictures.training))
    measured(runs / "joint", figures=tmp_path)
    assert [len(images) for images in seen] == [60]


def test_what_has_no_such_class_is_refused_by_name(runs, sets):
    with pytest.raises(SpiderUsageError, match=r"--class: class 'cats' is unknown; known: digits, letters"):
        measured(runs / "joint", classes=["cats"])
    with pytest.raises(SpiderUsageError, match=r"--class: class digits: the generator was trained without classes"):
        measured(runs / "plain", classes=["digits"])
    with pytest.raises(SpiderUsageError, match="--balanced: samples of all classes alike: for runs with classes"):
        measured(runs / "plain", balanced=True)
    with pytest.raises(SpiderUsageError, match="--balanced: of a run only"):
        measured(sets / "both", balanced=True, reference=sets / "both")
    with pytest.raises(SpiderUsageError, match="--class digits: of a run only"):
        measured(sets / "both", classes=["digits"], reference=sets / "both")
    with pytest.raises(SpiderUsageError, match=r"evaluate.classes=\['digits'\]: there are no classes"):
        make_config({"data": {"path": str(sets / "both")}}, [*SMALL, "evaluate.classes=[digits]"])
    told = ["condition.kind=class", "evaluate.classes=[cats]"]
    config = make_config({"data": {"path": str(sets / "both")}}, [*SMALL, *EVALUATE, *told])
    with pytest.raises(SpiderUsageError, match=r"evaluate.classes: class 'cats' is unknown"):
        train(config, RunDirectory(sets / "run"), World.single(), progress=False)
