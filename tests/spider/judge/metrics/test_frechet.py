"""FID is the formula, from sums that add up in any split, with any number of images."""

import numpy as np
import pytest
import scipy.linalg
import torch

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.judge.metrics.frechet import NormalLaw, frechet_distance, law_distance, too_few_images
from spider.judge.metrics.moments import Moments, moments_of

WORLD = World.single()


def features(seed: int, count: int, dim: int = 48, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Correlated, skewed and non-negative, as pooled features are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((dim, dim)) / np.sqrt(dim)
    return (np.maximum(rng.standard_normal((count, dim)) @ mixing * scale + shift, 0)).astype(np.float32)


def distance(x: np.ndarray, y: np.ndarray, ddof: int = 1) -> float:
    return frechet_distance(moments_of(x, WORLD), moments_of(y, WORLD), ddof=ddof)


def test_moments_are_those_of_numpy():
    x = features(0, 2500, dim=1100, shift=0.5)  # more than one block of rows and of columns, none of them full
    moments = moments_of(x, WORLD)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(moments.mean(), wide.mean(axis=0), rtol=1e-13)
    for ddof in (0, 1):
        np.testing.assert_allclose(
            moments.covariance(ddof), np.cov(wide, rowvar=False, ddof=ddof), rtol=1e-10, atol=1e-14
        )


@pytest.mark.parametrize("cuts", [[1], [500], [7, 8, 1999], list(range(100, 2000, 100))])
def test_moments_merge_in_any_split(cuts: list[int]):
    x = features(1, 2000, shift=0.5)
    whole = moments_of(x, WORLD)
    first, *others = (moments_of(part, WORLD) for part in np.split(x, cuts))
    merged = sum(others, start=first)
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean(), whole.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.covariance(), whole.covariance(), rtol=1e-12, atol=1e-12)


def test_fid_is_pytorch_fid(monkeypatch: pytest.MonkeyPatch):
    from pytorch_fid import fid_score

    # pytorch-fid asks for `disp=False`, which SciPy 1.18 no longer takes.
    monkeypatch.setattr(fid_score.linalg, "sqrtm", lambda a, disp, sqrtm=scipy.linalg.sqrtm: (sqrtm(a), 0.0))
    x, y = features(2, 400), features(3, 300, scale=1.3, shift=0.1)
    wide = [(z.astype(np.float64).mean(axis=0), np.cov(z.astype(np.float64), rowvar=False)) for z in (x, y)]
    theirs = fid_score.calculate_frechet_distance(*wide[0], *wide[1])
    assert distance(x, y) == pytest.approx(theirs, rel=1e-10)


def from_images(x: np.ndarray, y: np.ndarray) -> float:
    """The distance without a covariance or its root: the singular values of all images of x by all images of y."""
    centred = [(z - z.mean(axis=0, dtype=np.float64)) / np.sqrt(len(z) - 1) for z in (x, y)]
    trace_of_root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    shift = ((x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)) ** 2).sum()
    return float(shift + sum((c**2).sum() for c in centred) - 2 * trace_of_root)


def test_fid_is_exact_with_fewer_images_than_dimensions():
    x, y = features(4, 30, dim=200), features(5, 20, dim=200, scale=1.5)
    assert distance(x, y) == pytest.approx(from_images(x, y), rel=1e-10)


def dead(x: np.ndarray) -> np.ndarray:
    """A feature that never varies."""
    x[:, 3] = 0.1
    return x


def repeated(x: np.ndarray) -> np.ndarray:
    """Two features that are the same, up to rounding."""
    x[:, 3] = x[:, 5] * np.float32(1.1)
    return x


def shrinking(x: np.ndarray) -> np.ndarray:
    """Features of which the least varies 1e-6 as much as the first, so that eigenvalues lose what they mean."""
    return (x * np.logspace(0, -6, x.shape[1])).astype(np.float32)


@pytest.mark.parametrize("counts", [(400, 300), (49, 48), (300, 20)], ids=str)
@pytest.mark.parametrize(
    "shape", [lambda x: x, dead, repeated, shrinking], ids=["full", "dead", "repeated", "shrinking"]
)
def test_fid_is_exact_whatever_the_rank(shape, counts: tuple[int, int]):
    x, y = (shape(features(seed, count, shift=0.5)) for seed, count in enumerate(counts))
    assert distance(x, y) == pytest.approx(from_images(x, y), rel=1e-8)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9)


def test_nothing_is_decomposed_by_eigenvectors_where_the_rank_is_full(monkeypatch: pytest.MonkeyPatch):
    """They take ten times as long as Cholesky's factor, and singular values three times as long as eigenvalues."""
    for slow in ("eigh", "svd"):
        monkeypatch.setattr(np.linalg, slow, lambda *_, **__: pytest.fail("slow"))
    assert distance(features(2, 400), features(3, 300)) > 0


def test_fid_of_normal_laws_is_known():
    count = 40_000
    rng = np.random.default_rng(6)
    x = rng.standard_normal((count, 8)).astype(np.float32)
    y = (2 * rng.standard_normal((count, 8)) + 0.5).astype(np.float32)
    assert distance(x, y) == pytest.approx(8 * (0.5**2 + (2 - 1) ** 2), rel=0.02)


def test_fid_of_a_set_with_itself_is_zero_and_never_negative():
    for count in (20, 400):
        x = features(7, count)
        assert 0 <= distance(x, x) < 1e-9
        assert 0 <= distance(x, x[::-1].copy()) < 1e-9


def test_fid_is_symmetric_and_takes_its_divisor():
    x, y = features(8, 200), features(9, 150, scale=2.0)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)
    assert distance(x, y, ddof=0) == pytest.approx(
        frechet_distance(*(scaled(moments_of(z, WORLD)) for z in (x, y))), rel=1e-10
    )


def scaled(moments: Moments) -> Moments:
    """Moments whose covariance over N - 1 is the given one's over N."""
    mean = moments.mean()
    scatter = moments.outer - moments.count * torch.outer(mean, mean)
    scatter = scatter * (moments.count - 1) / moments.count
    return Moments(moments.count, moments.sum, scatter + moments.count * torch.outer(mean, mean))


def test_constant_images_have_a_distance():
    constant = np.full((50, 48), 0.7, np.float32)
    x = features(10, 200)
    wide = x.astype(np.float64)
    expected = ((wide.mean(axis=0) - np.float64(np.float32(0.7))) ** 2).sum() + np.cov(wide, rowvar=False).trace()
    assert distance(constant, x) == pytest.approx(expected, rel=1e-10)
    assert distance(constant, constant) == 0
    assert distance(constant[:1], constant) == 0


def test_few_images_warn():
    assert too_few_images(128, 64) is None
    assert "biases upwards" in str(too_few_images(127, 64))
    with pytest.raises(SpiderUsageError, match="no images"):
        moments_of(np.empty((0, 4), np.float32), WORLD)


@pytest.mark.parametrize("counts", [(2, 3), (10, 48), (48, 48)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_few_images_need_no_covariance(counts, ddof):
    """The distance is the one from the moments."""
    sets = [features(number, count, shift=1.0) for number, count in enumerate(counts)]
    few = law_distance(*(NormalLaw.of_few(each, ddof) for each in sets))
    assert few == pytest.approx(distance(*sets, ddof=ddof), rel=1e-9)
