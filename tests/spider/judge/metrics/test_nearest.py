"""Copies are judged by how near images are that are no copies."""

import numpy as np
import pytest

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.judge.metrics import nearest as nearest_module
from spider.judge.metrics.comparison import Comparison
from spider.judge.metrics.data_copying import score_ct
from spider.judge.metrics.distances import Nearest
from spider.judge.metrics.memorisation_page import measured, verdict
from spider.judge.metrics.nearest import NearestTraining, nearest_training, page_name
from spider.judge.metrics.protocols import protocol_named
from spider.judge.metrics.scores import score_nearest

WORLD = World.single()


def features(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)


def all_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None].astype(np.float64) - y[None].astype(np.float64), axis=2)


def test_training_images_leave_themselves_out():
    samples, training = features(0, 50), features(1, 80)
    found = nearest_training(samples, training, WORLD)
    expected = (all_distances(training, training) + np.diag(np.full(80, np.inf))).min(axis=1)
    np.testing.assert_allclose(found.unseen, expected, rtol=1e-10)
    assert not found.held_out


def test_held_out_images_leave_nothing_out():
    samples, training, held_out = features(0, 50), features(1, 80), features(2, 60)
    held_out[7] = training[7]
    found = nearest_training(samples, training, WORLD, held_out=held_out)
    expected = np.delete(all_distances(held_out, training).min(axis=1), 7)  # a copy of a training image
    np.testing.assert_allclose(found.unseen, expected, rtol=1e-10)
    np.testing.assert_array_equal(found.scale_images, np.delete(np.arange(60), 7))
    assert found.left_out == "1 of 60 held-out images is a copy of a training image and left out of the scale"
    assert found.held_out


def test_one_law_is_at_the_scale_and_copies_are_below_it():
    training = features(1, 2000)
    honest = nearest_training(features(0, 1000), training, WORLD)
    assert honest.ratio == pytest.approx(1, abs=0.05)
    assert honest.share_in_tail == pytest.approx(0.01, abs=0.01)
    assert not honest.looks_copied
    copies = nearest_training(training[:300] + 1e-3 * features(3, 300), training, WORLD)
    assert copies.ratio < 0.02
    assert copies.share_in_tail == 1
    assert copies.looks_copied
    np.testing.assert_array_equal(copies.samples.indices, np.arange(300))


def test_one_copy_in_twenty_is_noticed_and_chance_is_not():
    training = features(1, 2000)
    some = features(0, 1000)
    some[::20] = training[:50]
    assert nearest_training(some, training, WORLD).looks_copied
    small = [nearest_training(features(s, 50), training[:60], WORLD).looks_copied for s in range(2, 32)]
    assert sum(small) <= 1


@pytest.mark.parametrize("pairs", [1, 20])
def test_duplicates_among_the_real_images_hide_no_copies(pairs: int):
    training, held_out = features(1, 1000), features(2, 1000)
    twice = training.copy()
    twice[:pairs] = twice[pairs : 2 * pairs]
    held_out[:pairs] = training[:pairs] + 1e-6  # as another machine computes them
    few = features(0, 1000)
    few[:3] = training[500:503]
    for known, others, dropped in ((twice, None, 2 * pairs), (training, held_out, pairs)):
        assert not nearest_training(features(0, 1000), known, WORLD, held_out=others).looks_copied
        for samples in (few, training[500:]):
            found = nearest_training(samples, known, WORLD, held_out=others)
            assert found.looks_copied
            assert found.copies == dropped
            assert measured(found).endswith(f"{found.left_out}.")
    score = score_nearest(Comparison(few, None, twice, None, protocol_named("offline"), 0, WORLD))
    assert score.details["copies_left_out"] == 2 * pairs
    assert ("40 of 1,000 training images are copies of another one and left out of the scale" in score.warnings) == (
        pairs == 20
    )


def test_training_images_in_any_order_hold_nothing_out():
    training, samples = features(1, 400), features(0, 100)
    alone = nearest_training(samples, training, WORLD)
    shuffled = np.random.default_rng(0).permutation(training)
    for reference in (shuffled, shuffled[:150]):
        found = nearest_training(samples, training, WORLD, held_out=reference)
        assert not found.held_out
        np.testing.assert_array_equal(found.unseen, alone.unseen)
        comparison = Comparison(samples, None, reference, training, protocol_named("offline"), 0, WORLD)
        assert np.isnan(score_ct(comparison).value)
        np.testing.assert_array_equal(comparison.nearest_training.samples.distances, found.samples.distances)
    shuffled[8:] = features(2, 392)
    mixed = Comparison(samples, None, shuffled, training, protocol_named("offline"), 0, WORLD)
    (warning,) = score_nearest(mixed).warnings
    assert warning == "8 of 400 held-out images are copies of a training image and left out of the scale"


def test_tied_distances_are_a_scale():
    tied = Nearest(np.ones(400), np.arange(400))

    def copied(distance: float) -> bool:
        near = Nearest(np.append(tied.distances, distance), np.arange(401))
        return NearestTraining(near, tied, np.arange(400), held_out=True).looks_copied

    assert [copied(0.0), copied(1 - 1e-9)] == [True, False]


def test_the_scale_is_drawn_from_large_sets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nearest_module, "MOST_UNSEEN", 20)
    samples, training = features(0, 10), features(1, 80)
    one, again, other = (nearest_training(samples, training, WORLD, seed=seed).unseen for seed in (0, 0, 1))
    leave_one_out = (all_distances(training, training) + np.diag(np.full(80, np.inf))).min(axis=1)
    assert len(one) == 20
    assert np.isclose(one[:, None], leave_one_out[None], rtol=1e-10).any(axis=1).all()
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_one_training_image_is_refused():
    with pytest.raises(SpiderUsageError, match="at least 2 training images, found 1"):
        nearest_training(features(0, 10), features(1, 1), WORLD)


def test_a_few_copies_among_many_samples_are_noticed_by_how_near_they_are():
    """In 3,000 samples of one law, some are nearer than all of 300 held-out images anyhow."""
    rng = np.random.default_rng(0)
    training, held_out, samples = (rng.standard_normal((n, 12)).astype(np.float32) for n in (300, 300, 3000))
    for scale in (None, held_out):
        honest = nearest_training(samples, training, WORLD, held_out=scale)
        assert honest.ahead > 0
        assert honest.chance_of_ahead > 0.01
        assert not honest.looks_copied
        some = samples.copy()
        some[:3] = training[:3] + 1e-3
        copying = nearest_training(some, training, WORLD, held_out=scale)
        assert copying.share_in_tail == pytest.approx(honest.share_in_tail, abs=0.0011)
        assert copying.looks_copied


def test_samples_of_one_law_are_spread_evenly_over_the_distances_of_held_out_images():
    found = nearest_training(features(0, 2000), features(1, 500), WORLD, held_out=features(2, 2000))
    shares, _ = np.histogram(found.nearer, bins=10, range=(0, 1))
    np.testing.assert_allclose(shares / 2000, 0.1, atol=4 * found.chance(0.1))


def test_a_scale_of_nothing_is_said():
    twice = np.repeat(features(1, 40), 2, axis=0)
    score = score_nearest(Comparison(features(0, 20), None, twice, None, protocol_named("offline"), 0, WORLD))
    assert np.isnan(score.value)
    assert "the median distance of training images among themselves is 0" in score.warnings[0]
    assert verdict(nearest_training(twice, twice, WORLD)).startswith("Nothing tells")


def test_the_page_of_an_embedding_is_a_file_of_its_own():
    names = [page_name(label) for label in ("inception/clean", "dinov2-b14", "offline@123abc")]
    assert names == [f"memorisation-{rest}.png" for rest in ("inception-clean", "dinov2-b14", "offline@123abc")]
