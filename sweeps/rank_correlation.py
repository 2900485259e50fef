"""Whether two measures put the same things in the same order, and how far few things can tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spider import draws

_REPLICATES = 2000


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two measures of the same things, [N] each; NaN where one of them is constant."""
    from scipy.stats import spearmanr

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def rank_correlation_interval(
    a: NDArray[np.float64], b: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float] | None:
    """A 95 % interval, by bootstrap over the things; None for fewer than four, of which none can be had."""
    if len(a) < 4:
        return None
    rng = draws.generator(seed, "sweeps.rank_correlation")
    redrawn = [rank_correlation(a[rows], b[rows]) for rows in rng.integers(len(a), size=(_REPLICATES, len(a)))]
    low, high = np.nanpercentile(redrawn, [2.5, 97.5])
    return float(low), float(high)
