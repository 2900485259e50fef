"""The nearest vectors, exactly: held against brute force in whole numbers and against scikit-learn."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from spider.judge.instances.nearest import nearest_vectors

CPU = torch.device("cpu")


def vectors(count, dim, seed=0, copies=0):
    """About of length 1; the last `copies` are those of the first."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, dim))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    if copies:
        found[-copies:] = found[:copies]
    return found.astype(np.float16)


def by_brute_force(found, k):
    """In fractions, which do not round."""
    exact = [[Fraction(float(number)) for number in vector] for vector in found]
    numbers = []
    for i, vector in enumerate(exact):
        distances = [
            (sum((a - b) ** 2 for a, b in zip(vector, other, strict=True)), j) for j, other in enumerate(exact)
        ]
        numbers.append([j for _, j in sorted(each for each in distances if each[1] != i)[:k]])
    return np.array(numbers)


@pytest.mark.parametrize("copies", [0, 20])
def test_they_are_those_of_arithmetic(copies):
    found = vectors(60, 7, copies=copies)
    numbers, _ = nearest_vectors(found, 0, 60, 5, CPU)
    assert numbers.tolist() == by_brute_force(found, 5).tolist()


@pytest.mark.parametrize("k", [1, 5, 50])
def test_they_are_scikit_learns(k):
    found = vectors(700, 24)
    numbers, radii = nearest_vectors(found, 0, 700, k, CPU)
    wide = found.astype(np.float64)
    distances, theirs = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(wide).kneighbors(wide)
    assert numbers.tolist() == theirs[:, 1:].tolist()  # theirs begin with the vector itself
    assert radii == pytest.approx(distances[:, -1], rel=1e-6)


@pytest.mark.parametrize("copies", [0, 150])
@pytest.mark.parametrize("keys", [7, 64, 1000])
def test_blocks_and_shares_change_nothing(keys, copies):
    """Of more copies than there are candidates, float32 cannot tell which are the first."""
    found = np.concatenate([vectors(200, 16), np.repeat(vectors(1, 16, seed=1), copies, axis=0)])
    whole, radii = nearest_vectors(found, 0, len(found), 6, CPU)
    for start, stop in ((0, 1), (1, 90), (90, len(found))):
        numbers, far = nearest_vectors(found, start, stop, 6, CPU, keys=keys)
        assert numbers.tolist() == whole[start:stop].tolist()
        assert far.tolist() == radii[start:stop].tolist()
    if copies:
        assert whole[-1].tolist() == list(range(200, 206))  # of equally near ones the first
        assert radii[-1] == 0


def test_all_others_may_be_asked_for():
    found = vectors(12, 4)
    numbers, _ = nearest_vectors(found, 0, 12, 11, CPU)
    assert all(sorted(row) == [j for j in range(12) if j != i] for i, row in enumerate(numbers.tolist()))


def test_a_near_tie_that_float32_cannot_see_is_decided():
    """Many vectors a hair apart: closer to each other than float32 resolves."""
    base = np.zeros((120, 64), np.float16)
    base[:, 0] = 1
    base[np.arange(1, 120), 1 + np.arange(119) % 63] = 2.0**-14 * (1 + np.arange(119) / 128)
    numbers, _ = nearest_vectors(base, 0, 1, 3, CPU)
    exact = ((base.astype(np.float64) - base[0].astype(np.float64)) ** 2).sum(1)
    exact[0] = np.inf
    assert numbers[0].tolist() == np.argsort(exact, kind="stable")[:3].tolist() == [1, 2, 3]
