"""Nearest images are the nearest ones."""

import numpy as np
import pytest

from cluster.world import World
from spider.judge.metrics import distances
from spider.judge.metrics.distances import nearest

WORLD = World.single()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "ROWS", 32)


def features(seed: int, count: int, dim: int = 12) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, dim)) + 5).astype(np.float32)


def all_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None].astype(np.float64) - y[None].astype(np.float64), axis=2)


def test_nearest_is_the_minimum_over_all():
    queries, points = features(0, 70), features(1, 101)
    found = nearest(queries, points, WORLD)
    expected = all_distances(queries, points)
    np.testing.assert_array_equal(found.indices, expected.argmin(axis=1))
    np.testing.assert_allclose(found.distances, expected.min(axis=1), rtol=1e-10)


def test_nearest_finds_planted_copies():
    queries, points = features(2, 70), features(3, 101)
    queries[[5, 40, 69]] = points[[100, 0, 33]]
    found = nearest(queries, points, WORLD)
    np.testing.assert_array_equal(np.flatnonzero(found.distances == 0), [5, 40, 69])
    np.testing.assert_array_equal(found.indices[[5, 40, 69]], [100, 0, 33])


def test_leave_one_out_leaves_only_itself_out():
    points = features(4, 80)
    points[50] = points[10]
    found = nearest(points, points, WORLD, but=np.arange(80))
    others = all_distances(points, points) + np.diag(np.full(80, np.inf))
    np.testing.assert_array_equal(found.indices, others.argmin(axis=1))
    assert found.indices[50] == 10
    assert found.indices[10] == 50
    assert found.distances[10] == found.distances[50] == 0


def test_any_point_can_be_left_out():
    queries, points = features(6, 40), features(7, 90)
    first = nearest(queries, points, WORLD)
    second = nearest(queries, points, WORLD, but=first.indices)
    np.testing.assert_array_equal(second.indices, all_distances(queries, points).argsort(axis=1)[:, 1])


def test_the_first_of_equals_is_taken_across_blocks():
    points = features(5, 100)
    points[[20, 60, 61]] = points[90]
    assert nearest(points[90:91], points, WORLD).indices.tolist() == [20]


@pytest.mark.parametrize("candidates", [0, 64])
def test_what_float32_cannot_tell_apart_is_measured_exactly(monkeypatch, candidates):
    """Points that differ by less than its rounding, far from the origin; by differences, and by float64 products."""
    monkeypatch.setattr(distances, "_CANDIDATES", candidates)
    points = np.repeat(features(8, 1, 300), 100, axis=0)
    points[np.arange(100), np.arange(100)] = np.nextafter(points[0, :100], np.float32(9), dtype=np.float32)
    queries = features(9, 40, 300)
    expected = all_distances(queries, points)
    found = nearest(queries, points, WORLD)
    np.testing.assert_array_equal(found.indices, expected.argmin(axis=1))
    np.testing.assert_allclose(found.distances, expected.min(axis=1), rtol=1e-12)
    itself = nearest(points, points, WORLD, but=np.arange(100))
    others = all_distances(points, points) + np.diag(np.full(100, np.inf))
    if candidates:  # below the rounding of float64 products, distances are 0
        np.testing.assert_array_equal(itself.indices, others.argmin(axis=1))
    assert (itself.indices != np.arange(100)).all()
