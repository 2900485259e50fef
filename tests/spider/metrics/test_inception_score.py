"""The Inception score is exp of the mutual information between image and class."""

import numpy as np
import pytest

from spider.errors import SpiderUsageError
from spider.metrics.inception_score import inception_score


def sure(classes: np.ndarray, of: int = 10) -> np.ndarray:
    """Logits of a classifier that is certain."""
    return (60 * np.eye(of)[classes]).astype(np.float32)


def test_certain_and_even_is_the_number_of_classes():
    score = inception_score(sure(np.arange(200) % 10), splits=1)
    assert score.value == pytest.approx(10, rel=1e-9)


def test_one_class_or_no_idea_is_one():
    for logits in (sure(np.zeros(50, int)), np.zeros((50, 10), np.float32)):
        score = inception_score(logits, splits=5)
        assert score.value == pytest.approx(1, abs=1e-9)
        assert score.std == pytest.approx(0, abs=1e-9)


def test_it_is_the_formula():
    logits = np.random.default_rng(0).standard_normal((30, 7)).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    expected = [np.exp(np.mean(np.sum(q * np.log(q / q.mean(axis=0)), axis=1))) for q in (p[:15], p[15:])]
    score = inception_score(logits, splits=2)
    assert score.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert score.std == pytest.approx(np.std(expected), rel=1e-9)


def test_images_sorted_by_class_need_a_shuffle():
    by_class = sure(np.repeat(np.arange(10), 100))
    assert inception_score(by_class, splits=10).value == pytest.approx(1, abs=1e-6)
    assert inception_score(by_class, splits=10, shuffle_seed=0).value > 8


def test_every_image_is_in_one_split_also_if_they_do_not_divide():
    logits = sure(np.arange(13) % 10)
    logits[[0, 12]] = 0
    values = [inception_score(logits[keep], splits=1).value for keep in (slice(0, 5), slice(5, 9), slice(9, 13))]
    assert inception_score(logits, splits=3).value == pytest.approx(np.mean(values))


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(SpiderUsageError, match="at least 10 images, got 9"):
        inception_score(sure(np.arange(9)))
