"""Whether two measures put the same things in the same order, and how far few things can tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FEWEST = 5  # things; of fewer, every correlation is likely enough by chance
_TWO_SIDED = 1.959964  # normal quantile of 95 %


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two measures of the same things, [N] each; NaN where one of them is constant.

    Infinite is more than anything else.
    """
    from scipy.stats import spearmanr

    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def rank_correlation_interval(correlation: float, count: int) -> tuple[float, float] | None:
    """A 95 % interval of Spearman's correlation of `count` things; None for fewer than five.

    Fisher's transformation with the variance of Bonett and Wright (Psychometrika 65, 2000). A perfect order counts as
    half a step to the next possible value, since few things are in order by chance: at five, one time in sixty. A
    bootstrap over so few is much too sure.
    """
    if count < _FEWEST:
        return None
    most = 1 - 6 / (count * (count**2 - 1))
    clipped = min(max(correlation, -most), most)
    middle, spread = np.arctanh(clipped), _TWO_SIDED * np.sqrt((1 + clipped**2 / 2) / (count - 3))
    low, high = np.tanh([middle - spread, middle + spread])
    return min(float(low), correlation), max(float(high), correlation)
