"""A rank correlation of few things says how far it can tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neighbors.rank_correlation import rank_correlation, rank_correlation_interval


@pytest.mark.parametrize("count", [5, 6, 7])
def test_the_interval_of_a_rank_correlation_has_its_confidence(count: int) -> None:
    """Over every order of things that have nothing to do with each other."""
    correlations = [
        rank_correlation(np.arange(count, dtype=float), np.array(order, dtype=float))
        for order in itertools.permutations(range(count))
    ]
    intervals = {found: rank_correlation_interval(found, count) for found in set(correlations)}
    sure = sum(intervals[found][0] > 0 or intervals[found][1] < 0 for found in correlations) / len(correlations)
    assert 0.01 < sure < 0.05
    assert all(-1 <= low <= found <= high <= 1 for found, (low, high) in intervals.items())
    assert rank_correlation_interval(1.0, 4) is None
