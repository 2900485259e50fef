"""On given features, every metric is the number of its published formula, written down here the plain way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import linregress, mannwhitneyu

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.judge.metrics.comparison import Comparison
from spider.judge.metrics.data_copying import mann_whitney_z
from spider.judge.metrics.fd_infinity import sizes_of, subset_of
from spider.judge.metrics.fd_ratio import RatioSets
from spider.judge.metrics.mind import DIRECTIONS, directions_of, drawn
from spider.judge.metrics.protocols import protocol_named
from spider.judge.metrics.registry import METRICS

WORLD = World.single()
CLOSE = 1e-6  # relative


def pooled(seed, count, dim=24, shift=0.3):
    """Features as a network pools them: not negative, with a spectrum."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, dim), np.float32) * np.linspace(1, 0.2, dim, dtype=np.float32)
    return np.maximum(noise + np.float32(shift), 0)


def compared(samples, reference, training=None, seed=0):
    return Comparison(samples, None, reference, training, protocol_named("offline"), seed=seed, world=WORLD)


def score(name, *sets, **options):
    return METRICS[name].score(compared(*sets, **options))


def frechet(x, y):
    """Of dgm-eval and pytorch-fid."""
    (mx, sx), (my, sy) = ((f.mean(0, dtype=np.float64), np.cov(f.astype(np.float64), rowvar=False)) for f in (x, y))
    return np.sum((mx - my) ** 2) + np.trace(sx + sy - 2 * sqrtm(sx @ sy).real)


def distances(x, y):
    return np.linalg.norm(x[:, None].astype(np.float64) - y[None].astype(np.float64), axis=2)


@pytest.mark.parametrize("training", [None, pooled(2, 90)])
def test_fdr_is_a_ratio_of_distances_of_equally_many_images(training):
    sets = RatioSets.of(compared(pooled(0, 400, shift=0.4), pooled(1, 160), training))
    found = score("fdr", pooled(0, 400, shift=0.4), pooled(1, 160), training)
    expected = frechet(sets.samples, sets.reference) / frechet(sets.reals, sets.reference)
    assert found.value == pytest.approx(expected, rel=CLOSE)
    n = 80 if training is None else 90
    assert len(sets.samples) == len(sets.reals) == n == found.protocol["images"]
    rows = {tuple(row) for row in (pooled(1, 160) if training is None else training)}
    assert {tuple(row) for row in sets.reals} <= rows
    if training is None:
        assert {tuple(row) for row in [*sets.reals, *sets.reference]} == rows
        assert found.protocol["held_out"] == "half of the reference"


def test_fd_infinity_is_where_a_line_through_15_sizes_ends():
    samples, reference = pooled(0, 400, shift=0.4), pooled(1, 300)
    sizes = np.linspace(40, 400, 15).astype(int)
    np.testing.assert_array_equal(sizes_of(400), sizes)
    assert sizes_of(80_000)[0] == 5000
    values = [frechet(samples[subset_of(400, k, seed=3)], reference) for k in range(15)]
    assert [len(set(subset_of(400, k, seed=3))) for k in range(15)] == sizes.tolist()
    line = linregress(1 / sizes, values)
    found = score("fd_infinity", samples, reference, seed=3)
    assert found.value == pytest.approx(line.intercept, rel=CLOSE)
    assert found.details["slope"] == pytest.approx(line.slope, rel=CLOSE)
    assert found.stderr > line.intercept_stderr  # which is a part of it


def test_fd_infinity_takes_off_the_bias_of_few_samples():
    reference = pooled(0, 20_000)
    few = [score("fd_infinity", pooled(seed, 400, shift=0.35), reference) for seed in range(1, 6)]
    truth = score("fid", pooled(9, 20_000, shift=0.35), reference).value
    biased = np.mean([found.details["distances"][-1] for found in few])
    assert abs(np.mean([found.value for found in few]) - truth) < 0.2 * (biased - truth)


def test_kernel_distance_is_dgm_evals_kd():
    """The mean over subsets of the unbiased estimate under (x.y / d + 1)^3; every subset is all images here."""
    x, y = pooled(0, 300, shift=0.8), pooled(1, 300)

    def kernel(a, b):
        return (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3

    within = sum((k.sum() - np.trace(k)) / (300 * 299) for k in (kernel(x, x), kernel(y, y)))
    assert score("kid", x, y).value == pytest.approx(within - 2 * kernel(x, y).mean(), rel=CLOSE)


def test_mind_is_the_mean_of_sorted_differences():
    samples, reference = pooled(0, 1100, shift=0.4), pooled(1, 1300)
    along = directions_of(0, DIRECTIONS, 24, seed=5).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1, rtol=1e-6)
    x = samples[drawn(1100, 1100, 5, "samples")].astype(np.float64)
    y = reference[drawn(1300, 1100, 5, "reference")].astype(np.float64)
    sliced = ((np.sort(x @ along.T, axis=0) - np.sort(y @ along.T, axis=0)) ** 2).mean()
    found = score("mind", samples, reference, seed=5)
    assert found.value == pytest.approx(3 * 24 * sliced, rel=CLOSE)
    assert found.protocol["images"] == 1100
    assert found.warnings == []
    assert "1,000 and more" in score("mind", samples[:999], reference).warnings[0]


def test_authenticity_is_authpct():
    training, samples = pooled(0, 200), pooled(1, 150)
    samples[:40] = training[:40] + 1e-3
    among = distances(training, training) + np.diag(np.full(200, np.inf))
    to_training = distances(samples, training)
    authentic = among.min(1)[to_training.argmin(1)] < to_training.min(1)
    assert 0 < authentic.sum() < 110
    assert score("authenticity", samples, training).value == authentic.mean()
    of_held_out = score("authenticity", samples, pooled(2, 100), training).details["held_out"]
    to_training = distances(pooled(2, 100), training)
    assert of_held_out == (among.min(1)[to_training.argmin(1)] < to_training.min(1)).mean()


def clusters(seed, count, dim=80):
    """Three of them, far apart, so that every k-means finds the same cells."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dim)) + 40 * np.eye(dim)[np.arange(count) % 3]).astype(np.float32)


def published_ct(training, held_out, samples):
    """The authors' test in dgm-eval's setting: 64 principal components, 3 cells, more than 20 samples in each."""
    centred = training.astype(np.float64) - training.mean(0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:64].T
    values, weights = [], []
    for cell in range(3):
        t, p, q = (f[f[:, :3].argmax(1) == cell].astype(np.float64) @ axes for f in (training, held_out, samples))
        if len(q) <= 20:
            continue
        to_samples, to_held_out = distances(q, t).min(1), distances(p, t).min(1)
        m, n = len(q), len(p)
        u = mannwhitneyu(to_samples, to_held_out, alternative="less").statistic
        values.append((u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12))
        weights.append(n / len(held_out))
    return np.dot(values, weights) / np.sum(weights), len(values)


def test_ct_is_the_authors_statistic():
    training, held_out, samples = clusters(0, 300), clusters(1, 200), clusters(2, 240)
    samples[:50] = training[:50] + 0.1
    for some in (samples, samples[[i for i in range(240) if i % 3 != 1 or i < 30]]):  # of cell 1, ten remain
        expected, cells = published_ct(training, held_out, some)
        found = score("ct", some, held_out, training)
        assert found.value == pytest.approx(expected, rel=CLOSE)
        assert len(found.warnings) == 3 - cells
        assert sum(cell["z"] is not None for cell in found.details["cells"]) == cells


def test_ct_is_far_below_0_for_copies_and_near_it_for_one_law():
    training, held_out = clusters(0, 300), clusters(1, 300)
    assert score("ct", training + np.float32(0.01), held_out, training).value < -10
    assert abs(score("ct", clusters(2, 300), held_out, training).value) < 3
    undefined = [
        (score("ct", clusters(2, 60), held_out, training), "3 of 3 cells left out: no more than 20 samples"),
        (score("ct", clusters(2, 300), training), "needs held-out images"),
    ]
    for found, why in undefined:
        assert np.isnan(found.value)
        assert why in found.warnings[0]


def test_ties_count_a_half():
    z, _ = mann_whitney_z(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 2.0, 3.0]))
    u = mannwhitneyu([0.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0]).statistic
    assert z == pytest.approx((u - 5.5) / np.sqrt(3 * 4 * 8 / 12))


def test_cmmd_is_the_biased_discrepancy_of_unit_vectors():
    samples, reference = pooled(0, 130, shift=0.4), pooled(1, 170)
    x, y = (
        f.astype(np.float64) / np.linalg.norm(f.astype(np.float64), axis=1, keepdims=True) for f in (samples, reference)
    )

    def kernel(a, b):
        return np.exp(-(np.linalg.norm(a[:, None] - b[None], axis=2) ** 2) / 200).mean()

    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    for scale in (1, 7):
        found = score("cmmd", np.float32(scale) * samples, reference)
        assert found.value == pytest.approx(expected, rel=CLOSE)
    assert score("cmmd", reference, reference).value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [15, 200])
def test_vendi_is_the_exponential_of_an_entropy(count):
    samples, reference = pooled(0, count), pooled(1, 50)
    x = samples.astype(np.float64) / np.linalg.norm(samples.astype(np.float64), axis=1, keepdims=True)
    values = np.linalg.eigvalsh(x @ x.T / count)
    values = values[values > 0]
    expected = np.exp(-(values * np.log(values)).sum())
    assert score("vendi", samples, reference).value == pytest.approx(expected, rel=CLOSE)


def test_vendi_counts_different_images():
    different = np.eye(6, dtype=np.float32)
    assert score("vendi", different.repeat(4, axis=0), different).value == pytest.approx(6)
    assert score("vendi", different[:1].repeat(4, axis=0), different).value == pytest.approx(1)


def test_too_few_images_are_refused_by_name():
    few = pooled(0, 3)
    with pytest.raises(SpiderUsageError, match="FDr needs at least 4 reference images to halve, found 3"):
        score("fdr", few, few)
    with pytest.raises(SpiderUsageError, match="FD-infinity needs at least 30 samples, found 3"):
        score("fd_infinity", few, few)
    with pytest.raises(SpiderUsageError, match="C_T needs at least 3 training images, found 2"):
        score("ct", few, few, few[:2])
