"""Sources: draws are addressed, and the priors have the laws that they claim."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats

from shards.order import Slots
from spider.gan.sources import nonparametric
from spider.gan.sources.config import (
    PRIORS,
    CauchyConfig,
    GammaConfig,
    GaussianConfig,
    GmmConfig,
    NonparametricConfig,
)
from spider.runs.generator import open_source

CONFIGS = [GaussianConfig(), GammaConfig(), CauchyConfig(), GmmConfig(), NonparametricConfig()]


def build(config):
    return open_source(config, (1, 8, 8), torch.device("cpu"))


def test_every_prior_is_listed():
    assert tuple(config.kind for config in CONFIGS) == PRIORS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_draw_depends_on_its_address_alone(config):
    source = build(config)
    together = source.at(3, range(10))
    assert together.dtype == torch.float32
    assert together.shape == (10, *source.shape)
    torch.testing.assert_close(source.at(3, [7, 2]), together[[7, 2]], rtol=0, atol=0)
    assert not torch.equal(source.at(4, range(10)), together)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_training_draws_are_the_same_at_any_world_size_and_after_a_resume(config, world):
    source = build(config)
    whole = list(islice(source.feed(0, Slots(8), 0), 3))
    for rank in range(world):
        mine = list(islice(source.feed(0, Slots(8, rank, world), 8), 2))  # resumed after one batch
        for batch, all_slots in zip(mine, whole[1:], strict=True):
            torch.testing.assert_close(batch, all_slots[rank::world], rtol=0, atol=0)


def test_gamma_has_a_gamma_radius_and_a_uniform_direction():
    z = build(GammaConfig(dim=20)).at(0, range(4000)).double()
    radius = z.norm(dim=1)
    assert stats.kstest(radius.square().numpy(), stats.gamma(0.5).cdf).pvalue > 1e-3
    assert (z / radius[:, None]).mean(0).abs().max() < 0.05


def test_cauchy_coordinates_are_standard_cauchy():
    assert stats.kstest(build(CauchyConfig(dim=5)).at(0, range(2000)).numpy().ravel(), "cauchy").pvalue > 1e-3


def test_gmm_frontend_draws_from_its_components_and_trains():
    torch.manual_seed(0)
    config = GmmConfig(dim=3, components=4)
    source = build(config)
    frontend = source.frontend()
    drawn = source.at(0, range(4000))
    z = frontend(drawn)
    assert z.shape == (4000, 3)
    component = (drawn[:, 0] * 4).long()
    for i in range(4):
        torch.testing.assert_close(z[component == i].mean(0), frontend.mean[i], rtol=0, atol=0.03)
        torch.testing.assert_close(z[component == i].std(0), frontend.std[i], rtol=0.1, atol=0)
    (z.sum() + frontend.penalty()).backward()
    assert frontend.mean.grad is not None
    assert frontend.std.grad is not None
    torch.testing.assert_close(frontend.penalty(), torch.tensor(0.8**2 / 3))


def test_nonparametric_beats_every_common_law_of_its_variance():
    p = nonparametric.density()
    assert abs(float(p.sum()) - 1) < 1e-12
    assert abs(float(nonparametric.variance(p)) - nonparametric.VARIANCE) < 1e-5
    x = (torch.arange(1024, dtype=torch.float64) + 0.5) / 256 - 2
    gaussian = torch.exp(-x.square() / (2 * nonparametric.VARIANCE))
    laplace = torch.exp(-x.abs() / (nonparametric.VARIANCE / 2) ** 0.5)
    for other in (gaussian, laplace):
        other = other / other.sum()
        assert nonparametric.divergence(other) > 1.5 * nonparametric.divergence(p)


def test_nonparametric_divergence_is_that_of_midpoints():
    # A law on three bins, by hand: midpoints of pairs, an odd sum shared by its two neighbours
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            for bin_ in ((i + j) // 2, -(-(i + j) // 2)):
                q[bin_] += p[i] * p[j] / 2
    torch.testing.assert_close(nonparametric.divergence(p), (q * (q / p).log()).sum())


def test_nonparametric_draws_have_the_stored_density():
    z = build(NonparametricConfig()).at(0, range(2000)).numpy().ravel()
    assert z.min() >= -2
    assert z.max() <= 2
    counts, _ = np.histogram(z, bins=64, range=(-2, 2))
    expected = nonparametric.density().view(64, 16).sum(1).numpy() * z.size
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3
