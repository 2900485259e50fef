"""KID is the unbiased estimate of the published formula, from draws that are addressed by the seed."""

import numpy as np
import pytest

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.judge.metrics import kid as kid_module
from spider.judge.metrics.kid import kid, kid_full

WORLD = World.single()


def features(seed: int, count: int, dim: int = 16, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, dim)) + shift).astype(np.float32)


CLOSE = 2e-7  # products are float32, of values near 1


def direct(x: np.ndarray, y: np.ndarray) -> float:
    """The estimate, pair by pair."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        values = [
            (float(np.dot(u.astype(np.float64), v.astype(np.float64))) / len(u) + 1) ** 3
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if a is not b or i != j
        ]
        return float(np.mean(values))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def test_full_estimate_is_the_direct_formula(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kid_module, "ROWS", 16)  # several ragged blocks
    x, y = features(0, 45), features(1, 38, shift=0.3)
    assert kid_full(x, y, WORLD).value == pytest.approx(direct(x, y), abs=CLOSE)
    assert kid_full(x, x, WORLD).value == pytest.approx(kid_full(x, x.copy(), WORLD).value, abs=CLOSE)


def test_one_subset_of_everything_is_the_direct_formula():
    x, y = features(2, 40), features(3, 40, shift=0.2)
    estimate = kid(x, y, WORLD, seed=0, subsets=1)
    assert estimate.value == pytest.approx(direct(x, y), abs=CLOSE)
    assert estimate.std is None


def pooled(seed: int, count: int = 500, dim: int = 2048, scale: float = 1.0) -> np.ndarray:
    """Non-negative, with a mean, as pooled features are."""
    rng = np.random.default_rng(seed)
    spectrum = np.linspace(1, 0.05, dim)
    return (scale * np.maximum(rng.standard_normal((count, dim)) * spectrum + 0.3, 0)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_float32_products_are_exact_enough(scale: float):
    """Against everything in float64, by far less than the spread of a subset, and than the digits that are shown."""
    x, y = pooled(0, scale=scale), pooled(1, scale=scale)
    size, dim = x.shape
    wide = [z.astype(np.float64) for z in (x, y)]
    within = [(a @ a.T / dim + 1) ** 3 for a in wide]
    across = (wide[0] @ wide[1].T / dim + 1) ** 3
    exact = sum((kernel.sum() - kernel.trace()) / (size * (size - 1)) for kernel in within) - 2 * across.mean()
    for found in (kid_full(x, y, WORLD).value, kid(x, y, WORLD, seed=0, subsets=1).value):
        assert abs(found - exact) < 2e-7 * across.mean()
    spread = kid(x, y, WORLD, seed=0, subsets=8, subset_size=100).std
    assert abs(found - exact) < 0.01 * spread


def test_subsets_that_are_both_sets_whole_have_no_spread():
    x, y = features(2, 40), features(3, 40, shift=0.2)
    assert kid(x, y, WORLD, seed=0, subsets=5).std is None
    assert kid(x, features(3, 41), WORLD, seed=0, subsets=5).std > 0


def test_subsets_shrink_to_the_smaller_set():
    assert kid(features(0, 30), features(1, 50), WORLD, seed=0, subsets=3).subset_size == 30
    assert kid(features(0, 30), features(1, 50), WORLD, seed=0, subsets=3, subset_size=8).subset_size == 8


def test_draws_are_addressed_by_the_seed():
    x, y = features(4, 200), features(5, 200)
    one, again, other = (kid(x, y, WORLD, seed=seed, subsets=4, subset_size=50) for seed in (7, 7, 8))
    assert one == again
    assert one.value != other.value
    # Subset 0 is the same however many follow it: of two subsets, it is one standard deviation from their mean.
    first, both = (kid(x, y, WORLD, seed=7, subsets=n, subset_size=50) for n in (1, 2))
    assert both.std > 0
    assert abs(first.value - both.value) == pytest.approx(both.std, rel=1e-9)


def test_kid_is_unbiased_around_zero_for_one_law():
    estimates = [kid_full(features(2 * s, 60), features(2 * s + 1, 60), WORLD).value for s in range(200)]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates)) < 4 * error
    assert min(estimates) < 0 < kid_full(features(0, 60), features(1, 60, shift=0.3), WORLD).value


def test_one_image_is_refused():
    with pytest.raises(SpiderUsageError, match="at least 2 images"):
        kid_full(features(0, 1), features(1, 5), WORLD)
    with pytest.raises(SpiderUsageError, match="at least 2 images"):
        kid(features(0, 1), features(1, 5), WORLD, seed=0)
