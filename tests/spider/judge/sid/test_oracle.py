"""The closed form has the published reference values, and the full estimate agrees with it in many dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from spider.errors import SpiderError, SpiderUsageError
from spider.judge.sid.cube import Cube, FeatureSummary, summarise
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.oracle import at_least_as_diverse, closed_form, diagonal_frechet, standardised
from spider.judge.sid.robust import sid_curves

DIM = 2048
INVERSE = Kernel(-1)


def law(sigma: float, shift: float = 0.0) -> FeatureSummary:
    """N(delta, sigma^2 I) with |delta|^2 = shift, known without sampling error."""
    return FeatureSummary(10**12, np.full(DIM, np.sqrt(shift / DIM)), np.full(DIM, sigma**2 * 10**12))


def draw(seed: int, count: int, sigma: float, shift: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((count, DIM), np.float32)
    return (sigma * noise + np.sqrt(shift / DIM)).astype(np.float32)


@pytest.mark.parametrize(("shift", "csid"), [(0, 143.69), (40, 178.67), (150, 249.61)])
def test_reference_values(shift: float, csid: float):
    (curve,) = closed_form(Cube(law(0.20)), law(0.30, shift), [INVERSE])
    assert curve.csid == pytest.approx(csid, abs=0.006)
    assert 0.055 < 1 - curve.csid_trapezoid / curve.csid < 0.0635


@pytest.mark.parametrize(("steps", "csid"), [(199, 254.83), (499, 255.12)])
def test_farther_radii_hardly_add(steps: int, csid: float):
    cube = Cube(law(0.20), tuple(step / 2 for step in range(1, steps + 1)))
    assert closed_form(cube, law(0.30, 150), [INVERSE])[0].csid == pytest.approx(csid, abs=0.006)


@pytest.mark.parametrize(("sigma", "shift"), [(0.30, 40), (0.22, 0)])
def test_the_full_estimate_agrees(sigma: float, shift: float):
    target, source = draw(0, 1000, 0.20), draw(1, 1000, sigma, shift)
    (curve,) = sid_curves(target, {"s": source}, [INVERSE], subsets=2)["s"]
    (oracle,) = closed_form(Cube(law(0.20)), law(sigma, shift), [INVERSE])
    assert curve.csid == pytest.approx(oracle.csid, abs=4 * curve.csid_stderr)
    assert curve.csid == pytest.approx(oracle.csid, rel=0.015)


def test_less_diverse_is_negative():
    target, source = draw(2, 1000, 0.33), draw(3, 1000, 0.22, 20)
    (curve,) = sid_curves(target, {"s": source}, [INVERSE], subsets=2)["s"]
    assert curve.csid == pytest.approx(-66.05, abs=0.7)
    assert closed_form(Cube(summarise(target, "t")), summarise(source, "s"), [INVERSE])[0].csid == pytest.approx(
        -66.05, abs=0.7
    )


def test_samples_of_one_law_are_at_zero_whatever_their_number():
    """Sampling moves the mean of 100 images by T / 100; the closed form does not take that for a distance."""
    target = summarise(draw(4, 100, 0.2), "t")
    (curve,) = closed_form(Cube(target), summarise(draw(5, 100, 0.2), "s"), [INVERSE])
    (biased,) = closed_form(Cube(law(0.2)), law(0.2, 2 * target.total_variance / 100), [INVERSE])
    assert abs(curve.csid) < 0.3 * biased.csid


def test_a_source_that_is_one_point_is_finite():
    target = summarise(draw(6, 50, 0.2), "t")
    point = FeatureSummary(50, target.mean, np.zeros(DIM))
    (curve,) = closed_form(Cube(target), point, [INVERSE])
    assert np.isfinite(curve.values).all()
    assert curve.csid < 0


def test_what_has_no_cube_is_refused():
    with pytest.raises(SpiderError, match="do not vary"):
        Cube(summarise(np.ones((5, 3), np.float32), "t"))
    with pytest.raises(SpiderUsageError, match="at least 2 images"):
        summarise(np.ones((1, 3), np.float32), "t")
    with pytest.raises(SpiderError, match="t: a feature is not finite"):
        summarise(np.full((5, 3), np.nan, np.float32), "t")
    with pytest.raises(SpiderUsageError, match="radii must be greater than 0"):
        Cube(law(0.2), (0.0, 1.0))


def test_without_correlations_the_screened_frechet_distance_is_exact():
    assert diagonal_frechet(law(0.20), law(0.30, 40)) == pytest.approx(40 + DIM * 0.10**2)
    assert diagonal_frechet(law(0.30, 40), law(0.20)) == pytest.approx(40 + DIM * 0.10**2)
    same = summarise(draw(4, 100, 0.3), "a"), summarise(draw(5, 100, 0.3), "b")
    assert diagonal_frechet(*same) == pytest.approx(0, abs=0.02 * DIM * 0.3**2)


def test_a_source_that_varies_less_is_raised_to_the_target_and_no_other():
    target, wider = law(0.30), law(0.33)
    (raised,) = closed_form(Cube(target), at_least_as_diverse(law(0.22, 20), target), [INVERSE])
    assert raised.csid == pytest.approx(closed_form(Cube(target), law(0.30, 20), [INVERSE])[0].csid)
    assert at_least_as_diverse(wider, target) is wider


def test_standardised_features_have_no_units():
    rng = np.random.default_rng(6)
    target, source = (rng.standard_normal((300, 50)) * scale + shift for scale, shift in ((1, 0), (1.2, 0.5)))
    units = np.geomspace(0.5, 5, 50)

    def standard(unit: np.ndarray) -> float:
        about, of = (summarise((each * unit).astype(np.float32), "x") for each in (target, source))
        return closed_form(Cube(standardised(about, about)), standardised(of, about), [INVERSE])[0].csid

    assert standard(units) == pytest.approx(standard(np.ones(50)), rel=1e-3)
    without = target * (np.arange(50) > 0)
    summary = summarise(without.astype(np.float32), "a feature that the target does not have")
    assert np.isfinite(standardised(summary, summary).mean).all()
