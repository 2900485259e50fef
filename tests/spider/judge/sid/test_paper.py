"""Mode `paper` is the published algorithm, step by step, and `robust` finds the same curve with less noise."""

from __future__ import annotations

import numpy as np
import pytest

from spider.errors import SpiderUsageError
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.paper import SUBSETS, moving_average_weights, paper_curves, paper_draws
from spider.judge.sid.robust import sid_curves

RADII = (0.5, 3.0)


def normal(seed: int, count: int, mean: float, sigma: float, dim: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, dim)) * sigma + mean).astype(np.float32)


def by_loops(target: np.ndarray, source: np.ndarray, radii: tuple[float, ...], order: float, seed: int) -> np.ndarray:
    """The published code's steps in float64, one after the other, on the same draws."""
    rows = min(len(target), len(source))
    centre = target.mean(0, dtype=np.float64)
    scale = np.mean(np.sqrt(np.diag(np.cov(target.astype(np.float64), rowvar=False))))
    target, source = target.astype(np.float64), source.astype(np.float64)
    sign = -1 if order < 0 else 1
    found = []
    for step, radius in enumerate(radii):
        average = 0.0
        for subset in range(SUBSETS):
            target_rows, source_rows, unit = paper_draws(seed, step, subset, rows, target.shape[1])
            points = centre + radius * scale / 2 * unit.astype(np.float64)
            value = 0.0
            for x in points:
                to_source = np.sqrt(((x - source[source_rows]) ** 2).sum(1))
                to_target = np.sqrt(((x - target[target_rows]) ** 2).sum(1))
                value += sign * (to_source**order).mean() - sign * (to_target**order).mean()
            average = value if average == 0 else 0.5 * average + 0.5 * value
        found.append(average)
    return np.array(found)


@pytest.mark.parametrize(("order", "dim"), [(-1, 5), (1, 66)])
def test_paper_is_the_loop_on_the_same_draws(order: float, dim: int):
    target, source = normal(0, 520, 0, 1, dim), normal(1, 640, 0.3, 1.2, dim)
    radii = RADII[: 2 if dim == 5 else 1]
    (curve,) = paper_curves(target, {"s": source}, [Kernel(order)], seed=3, radii=radii)["s"]
    expected = by_loops(target, source, radii, order, seed=3)
    np.testing.assert_allclose(curve.values, expected, rtol=1e-4 if dim > 64 else 1e-7)  # float32 above 64


def test_only_the_first_rows_of_the_longer_set_count():
    target, source = normal(0, 520, 0, 1, 5), normal(1, 640, 0.3, 1.2, 5)
    changed = source.copy()
    changed[520:] = 100
    a, b = (paper_curves(target, {"s": s}, [Kernel(-1)], radii=RADII)["s"][0] for s in (source, changed))
    np.testing.assert_array_equal(a.values, b.values)


def test_the_moving_average_counts_the_last_subsets():
    values = np.random.default_rng(0).random(SUBSETS)
    average = values[0]
    for value in values[1:]:
        average = average / 2 + value / 2
    assert moving_average_weights(SUBSETS) @ values == pytest.approx(average)
    assert moving_average_weights(SUBSETS).sum() == pytest.approx(1)


def test_robust_agrees_per_radius_and_is_steadier():
    target, source = normal(0, 3000, 0, 1, 24), normal(1, 3000, 0.3, 1.2, 24)
    options = {"radii": (0.5, 3.0, 10.0)}
    curves = {
        mode: [curves_of(target, {"s": source}, [Kernel(-1)], seed=seed, **options)["s"][0].values for seed in range(4)]
        for mode, curves_of in (("robust", sid_curves), ("paper", paper_curves))
    }
    paper, robust = (np.array(curves[mode]) for mode in ("paper", "robust"))
    (one,) = paper_curves(target, {"s": source}, [Kernel(-1)], **options)["s"]
    np.testing.assert_array_less(np.abs(robust[0] - paper.mean(0)), 4 * one.stderr)
    assert (robust.std(0) < paper.std(0)).all()


def test_it_needs_500_images_and_says_so():
    target = normal(0, 600, 0, 1, 5)
    with pytest.raises(SpiderUsageError, match="digits: 499 images; mode paper needs 500, mode robust does not"):
        paper_curves(target, {"digits": target[:499]}, [Kernel(-1)])
