"""The Inception score is exp of the mutual information between image and class."""

import numpy as np
import pytest

from spider.errors import SpiderUsageError
from spider.judge.metrics.inception_score import inception_score


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


def test_splits_are_cut_as_the_field_cuts_them_also_where_they_do_not_divide():
    """As torch-fidelity and NVIDIA's code: 14 images in 4 splits are 0-2, 3-6, 7-9 and 10-13."""
    logits = np.random.default_rng(1).standard_normal((14, 5)).astype(np.float32)
    parts = [logits[0:3], logits[3:7], logits[7:10], logits[10:14]]
    values = [inception_score(part, splits=1).value for part in parts]
    found = inception_score(logits, splits=4)
    assert found.value == pytest.approx(np.mean(values), rel=1e-9)
    assert found.std == pytest.approx(np.std(values), rel=1e-9)


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(SpiderUsageError, match="at least 10 images, got 9"):
        inception_score(sure(np.arange(9)))
