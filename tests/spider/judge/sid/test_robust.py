"""Signed distance has its sign, its published values, and an uncertainty that holds for fresh images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spider.errors import SpiderError, SpiderUsageError
from spider.judge.sid import robust
from spider.judge.sid.cube import Cube, FeatureSummary, rows_of_subsets, summarise, unit_points
from spider.judge.sid.curve import POINTS, difference_stderr
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.robust import sid_curves
from spider.judge.sid.sums import MIRRORS, Scratch, mean_over_points, slope_of_mean, working_dtype

INVERSE = Kernel(-1)


def normal(seed: int, count: int, mean: float, sigma: float, dim: int = 2) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, dim)) * sigma + mean).astype(np.float32)


def modes(seed: int, count: int, step: int = 1) -> np.ndarray:
    """Every step-th of 8 tight modes on a circle, in turn."""
    angles = 2 * np.pi * step * np.arange(count) / 8
    centres = 0.5 + 0.35 * np.stack([np.cos(angles), np.sin(angles)], 1)
    return (centres + 0.02 * np.random.default_rng(seed).standard_normal((count, 2))).astype(np.float32)


# Signed distance per point, of the paper's toy figures 6 to 8, by a Monte Carlo of 3 million pairs.
TOY_RADII = (1.0, 2.0, 5.0, 10.0, 20.0)
TOY = {
    "6a": ((0.0, 0.75), (1.474, 1.304, 0.740, 0.325, 0.055)),
    "6b": ((2.5, 0.75), (1.364, 1.193, 0.618, 0.147, 0.016)),
    "6c": ((5.5, 0.75), (0.0, 0.0, 0.0, 0.0, 0.0)),
    "7a": ((5.0, 0.15), (0.011, -0.385, -0.041, -0.004, 0.0)),
    "7b": ((5.0, 0.25), (-0.053, -0.261, -0.032, -0.004, 0.0)),
    "7c": ((5.0, 1.00), (0.511, 0.405, 0.099, 0.008, 0.0)),
}


def test_toy_figures_6_and_7():
    target = normal(0, 20_000, 5.5, 0.75)
    sources = {figure: normal(i, 20_000, *law) for i, (figure, (law, _)) in enumerate(TOY.items(), start=1)}
    curves = sid_curves(target, sources, [INVERSE], radii=TOY_RADII, subsets=12)  # 3 million pairs
    for figure, (_, values) in TOY.items():
        np.testing.assert_allclose(curves[figure][0].values / POINTS, values, atol=0.04, err_msg=figure)


def test_toy_figure_8():
    """Losing half of the modes bulges upwards; a blob in the middle starts far below."""
    target, half, blob = modes(0, 20_000), modes(1, 20_000, step=2), normal(2, 20_000, 0.5, 0.25)
    radii = (0.1, 1.0, 2.0, 3.0, 4.0)
    curves = sid_curves(target, {"8a": blob}, [INVERSE], radii=radii, subsets=12)
    np.testing.assert_allclose(curves["8a"][0].values / POINTS, (-2.135, -1.893, -1.004, -0.015, 0.040), atol=0.05)
    curves = sid_curves(target, {"8c": half}, [INVERSE], radii=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0), subsets=12)
    np.testing.assert_allclose(curves["8c"][0].values / POINTS, (0.008, 0.044, 0.243, 0.421, 0.163, 0.040), atol=0.05)


def test_far_is_positive_collapsed_is_negative_the_same_is_zero():
    target = normal(0, 800, 0, 1, dim=16)
    sources = {
        "far": normal(1, 800, 2, 1, 16),
        "collapsed": normal(2, 800, 0, 0.3, 16),
        "same": normal(3, 700, 0, 1, 16),
    }
    kernels = [INVERSE, Kernel(1), Kernel(-3), Kernel(0, log=True)]
    curves = sid_curves(target, sources, kernels, radii=(1.0, 6.0, 20.0), subsets=4)
    for far, collapsed, same in zip(*(curves[name] for name in sources), strict=True):
        assert far.csid > 10 * far.csid_stderr
        assert collapsed.csid < -10 * collapsed.csid_stderr
        assert abs(same.csid) < 3 * same.csid_stderr


def test_the_means_are_those_of_direct_distances():
    features = normal(0, 50, 3, 1, dim=7)
    cube = Cube(summarise(features, "t"), (0.5, 2.0, 9.0))
    kernels = [INVERSE, Kernel(1), Kernel(-3), Kernel(0.5), Kernel(2, log=True)]
    u = torch.from_numpy(unit_points(0, 0, 6, 7)).double()
    images = torch.from_numpy(features[:5] - cube.target.mean)
    found = mean_over_points(cube, kernels, u, images, Scratch())
    for r, h in enumerate(cube.half_widths):
        signs = torch.tensor(MIRRORS).double().repeat_interleave(torch.tensor([4, 3]), 1)  # 7 coordinates: 4 and 3
        points = h * (signs[:, None] * u).flatten(0, 1)
        distances = torch.cdist(points, images, compute_mode="donot_use_mm_for_euclid_dist")
        expected = torch.stack([kernel(distances).mean(0) for kernel in kernels])
        torch.testing.assert_close(found[:, r], expected, rtol=1e-10, atol=1e-12)


def test_float32_agrees_with_float64():
    features = normal(0, 300, 2, 0.3, dim=256)
    cube = Cube(summarise(features, "t"), (0.5, 3.0, 24.5))
    kernels = [Kernel(k) for k in (-5, -1, 1)]
    u = torch.from_numpy(unit_points(0, 0, 20, 256))
    images = torch.from_numpy(features[:100] - cube.target.mean)
    narrow, wide = (
        mean_over_points(cube, kernels, u.to(t), images.to(t), Scratch()) for t in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(narrow, wide, rtol=2e-6, atol=0)
    torch.testing.assert_close(narrow.mean(2), wide.mean(2), rtol=2e-7, atol=0)


def test_many_radii_are_what_each_of_them_is():
    """They come from fewer, measured ones; asked for a few at a time, each is measured itself."""
    target, source = normal(0, 400, 3, 0.3, dim=128), normal(1, 400, 3.05, 0.4, dim=128)
    kernels = [INVERSE, Kernel(1), Kernel(-5), Kernel(0.5), Kernel(0, log=True), Kernel(2, log=True)]
    together = sid_curves(target, {"s": source}, kernels, subsets=2)["s"]
    radii = together[0].radii
    for part in (radii[:15], radii[20:35], radii[-12:]):
        few = sid_curves(target, {"s": source}, kernels, subsets=2, radii=tuple(part))["s"]
        for curve, measured in zip(together, few, strict=True):
            where = np.isin(radii, part)
            distances = torch.tensor(Cube(summarise(target, "t"), tuple(part)).typical_distances)
            size = 500 * curve.kernel(distances).abs().numpy()
            np.testing.assert_array_less(np.abs(curve.values[where] - measured.values) / size, 2e-6)
            np.testing.assert_allclose(curve.stderr[where], measured.stderr, rtol=1e-3)


def test_a_point_beside_an_image_keeps_its_distance():
    """In two dimensions they come near, and the difference of squares would lose it in float32."""
    cube = Cube(FeatureSummary(100, np.zeros(2), np.full(2, 99.0)), (20.0,))
    dtype = working_dtype(cube, [INVERSE])
    u = torch.tensor([[0.5, 0.7]], dtype=dtype)
    image = cube.half_widths[0] * u + 1e-4
    mean = float(mean_over_points(cube, [INVERSE], u, image, Scratch()))
    assert mean == pytest.approx(-1 / (4 * np.sqrt(2) * 1e-4), rel=1e-3)


@pytest.mark.parametrize("kernel", [INVERSE, Kernel(1), Kernel(0, log=True)])
def test_slopes_are_the_change_with_the_cube(kernel: Kernel):
    features = normal(0, 400, 3, 1, dim=6)
    summary = summarise(features, "t")
    cube = Cube(summary, (1.0, 6.0))
    u = torch.from_numpy(unit_points(0, 0, 40, 6)).double()
    images = torch.from_numpy(normal(1, 30, 5, 1.5, dim=6) - summary.mean)
    slope = slope_of_mean(cube, [kernel], u, images, Scratch())
    step = 1e-5
    for i in (0, 5):
        shift = step * torch.eye(6, dtype=torch.float64)[i]
        ahead, behind = (
            mean_over_points(cube, [kernel], u, images - sign * shift, Scratch()).mean(2) for sign in (1, -1)
        )
        torch.testing.assert_close(slope.shift[..., i], (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-8)
    wider, narrower = (
        mean_over_points(
            Cube(FeatureSummary(400, summary.mean, summary.scatter * np.exp(2 * sign * step)), cube.radii),
            [kernel],
            u,
            images,
            Scratch(),
        ).mean(2)
        for sign in (1, -1)
    )
    torch.testing.assert_close(slope.stretch, (wider - narrower) / (2 * step), rtol=1e-4, atol=1e-8)


def spectrum(seed: int, count: int, sigma: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Features as networks have them: a few directions with most of the variance."""
    scales = np.arange(1, 33.0) ** -0.5
    return ((np.random.default_rng(seed).standard_normal((count, 32)) * sigma + shift) * scales).astype(np.float32)


@pytest.mark.parametrize(
    ("target_count", "source_count", "sigma", "shift"),
    [
        (600, 600, 1.2, 0.4),
        (60, 60, 1.2, 0.4),
        (60, 3000, 0.3, 0.8),  # what the target's few images do to the cube's centre counts most
        (60, 3000, 3.0, 0.0),  # and here to its side
    ],
)
def test_intervals_cover_the_truth_for_fresh_images(target_count: int, source_count: int, sigma: float, shift: float):
    """The truth is from many images. Both sets are drawn afresh, and with them the cube: 95 % should cover."""
    radii = (1.0, 6.0, 20.0)
    many = spectrum(1, 30_000), {"s": spectrum(2, 30_000, sigma, shift)}
    (truth,) = sid_curves(*many, [INVERSE], radii=radii, subsets=10)["s"]
    scores, per_radius, differences = [], [], []
    for trial in range(60):
        target = spectrum(100 + 3 * trial, target_count)
        sources = {name: spectrum(101 + 3 * trial + i, source_count, sigma, shift) for i, name in enumerate("st")}
        curves = sid_curves(target, sources, [INVERSE], seed=trial, radii=radii, subsets=3)
        one, two = curves["s"][0], curves["t"][0]
        scores.append((one.csid - truth.csid) / np.hypot(one.csid_stderr, truth.csid_stderr))
        per_radius.append((one.values - truth.values) / np.hypot(one.stderr, truth.stderr))
        differences.append((one.csid - two.csid) / difference_stderr(one, two))
    for score in (np.array(scores), np.array(differences), *np.array(per_radius).T):
        assert (np.abs(score) < 1.96).mean() > 0.85  # 0.95 - 3.5 standard errors of 60 trials
        assert 0.65 < score.std() < 1.35


def test_paired_differences_are_known_better_than_values():
    target = spectrum(0, 300)
    sources = {name: spectrum(i, 20_000, 1.2, 0.4) for i, name in enumerate("ab", start=1)}
    a, b = (curves[0] for curves in sid_curves(target, sources, [INVERSE], radii=(1.0, 6.0), subsets=8).values())
    assert difference_stderr(a, b) < 0.6 * np.hypot(a.csid_stderr, b.csid_stderr)


def test_a_sets_own_images_do_not_make_it_near():
    """50 images pull the cube to themselves; a second sample of their law is at 0 nevertheless."""
    csids = [
        sid_curves(
            normal(2 * i, 50, 0, 1, 64), {"s": normal(2 * i + 1, 50, 0, 1, 64)}, [INVERSE], radii=(1.0, 9.0), subsets=2
        )["s"][0].csid
        for i in range(30)
    ]
    assert abs(np.mean(csids)) < 3 * np.std(csids) / np.sqrt(30)


def test_one_seed_one_result_and_threads_do_not_matter():
    target, source = normal(0, 300, 0, 1, 80), normal(1, 300, 1, 1, 80)
    options = {"radii": (1.0, 9.0), "subsets": 4}
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(sid_curves(target, {"s": source}, [INVERSE], seed=5, **options)["s"][0])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(found[0].values, found[1].values)
    np.testing.assert_allclose(found[0].csid_replicates, found[1].csid_replicates, rtol=1e-6)
    other = sid_curves(target, {"s": source}, [INVERSE], seed=6, **options)["s"][0]
    assert found[0].csid != other.csid
    assert other.csid == pytest.approx(found[0].csid, abs=3 * other.csid_stderr)


def test_other_sources_and_the_order_of_images_do_not_matter():
    target, one, two = normal(0, 900, 0, 1, 80), normal(1, 900, 1, 1, 80), normal(2, 900, 2, 1, 80)
    options = {"radii": (1.0, 9.0), "subsets": 4}
    alone = sid_curves(target, {"one": one}, [INVERSE], **options)["one"][0]
    among = sid_curves(target, {"two": two, "one": one}, [Kernel(1), INVERSE], **options)["one"][1]
    np.testing.assert_array_equal(among.values, alone.values)
    np.testing.assert_allclose(among.csid_replicates, alone.csid_replicates, rtol=1e-6)
    order = np.random.default_rng(0).permutation(900)
    permuted = sid_curves(target[order], {"one": one[order]}, [INVERSE], **options)["one"][0]
    assert permuted.csid == pytest.approx(alone.csid, abs=alone.csid_stderr)


def test_subsets_use_all_images_alike():
    rows = rows_of_subsets(seed=0, subsets=20, size=500, count=1797)
    uses = np.bincount(rows.ravel(), minlength=1797)
    assert set(uses) == {5, 6}
    assert all(len(set(subset)) == 500 for subset in rows)


@pytest.mark.parametrize("count", [2, 40])
def test_small_sets_have_a_curve_and_an_uncertainty(count: int):
    target, source = normal(0, count, 0, 1, 8), normal(1, count + 1, 1, 1, 8)
    (curve,) = sid_curves(target, {"s": source}, [INVERSE], radii=(1.0, 5.0), subsets=3)["s"]
    assert np.isfinite(curve.values).all()
    assert curve.csid_stderr > 0


def test_huge_orders_are_finite_and_signed():
    target = normal(0, 300, 0, 0.2, 512)
    sources = {"far": normal(1, 300, 0.1, 0.2, 512), "collapsed": normal(2, 300, 0, 0.15, 512)}
    curves = sid_curves(target, sources, [Kernel(-510)], subsets=2, radii=(0.5, 2.0))
    assert curves["far"][0].csid > 0 > curves["collapsed"][0].csid


def test_what_overflows_says_so():
    target, source = normal(0, 300, 0, 1, 2), normal(1, 300, 0, 1, 2)
    (curve,) = sid_curves(target, {"s": source}, [Kernel(-2000)], radii=(1.0,))["s"]
    with pytest.raises(SpiderError, match=r"s: SID of order -2000 relative overflows"):
        curve.require_finite("s")


def test_sets_that_do_not_fit_are_refused_by_name():
    target = normal(0, 20, 0, 1, 8)
    with pytest.raises(SpiderUsageError, match="letters: 7 features; the target has 8"):
        sid_curves(target, {"letters": normal(0, 20, 0, 1, 7)}, [INVERSE])
    with pytest.raises(SpiderUsageError, match=r"letters: .* at least 2 images"):
        sid_curves(target, {"letters": target[:1]}, [INVERSE])
    with pytest.raises(SpiderError, match="letters: a feature is not finite"):
        sid_curves(target, {"letters": np.full((5, 8), np.inf, np.float32)}, [INVERSE])


def test_units_are_the_published_ones():
    assert robust.SUBSETS == 20
    target, source = normal(0, 100, 0, 1, 8), normal(1, 100, 1, 1, 8)
    (curve,) = sid_curves(target, {"s": source}, [INVERSE], subsets=2)["s"]
    assert len(curve.radii) == 49
    assert (curve.radii[0], curve.radii[-1]) == (0.5, 24.5)
    assert curve.csid == pytest.approx(curve.values.sum())
    assert curve.csid_trapezoid == pytest.approx(curve.values.sum() - (curve.values[0] + curve.values[-1]) / 2)
