"""A standard error is how much a number differs between fresh sets of images."""

from __future__ import annotations

import numpy as np
import pytest

from spider.judge.metrics.jackknife import GROUPS, dealt, jackknife_stderr
from tests.spider.judge.metrics.test_published import pooled, score


def test_of_a_mean_it_is_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).standard_normal(2000)
    groups = dealt(len(values), 0, "test")
    assert set(np.bincount(groups)) == {200}
    found = jackknife_stderr([values[groups != g].mean() for g in range(GROUPS)])
    assert found == pytest.approx(values.std() / np.sqrt(2000), rel=0.7)
    assert not (groups == dealt(len(values), 0, "other")).all()


EVERY = ["kid_full", "fdr", "fd_infinity", "mind", "cmmd", "vendi", "authenticity", "ct"]


@pytest.mark.parametrize(
    ("name", "count", "dim"), [*((name, 240, 6) for name in EVERY), ("fdr", 40, 60), ("vendi", 40, 60)]
)
def test_it_is_the_spread_over_fresh_images(name, count, dim):
    def fresh(seed):
        samples, reference, training = (pooled(3 * seed + i, count, dim, 0.3 + 0.2 * (i == 0)) for i in range(3))
        return score(name, samples, reference, training, seed=seed)

    found = [fresh(seed) for seed in range(24)]
    spread = np.std([each.value for each in found], ddof=1)
    assert 0.5 < np.mean([each.stderr for each in found]) / spread < 2
