"""How well points are learnt, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.points import Modes

_WITHIN = 3.0  # standard deviations of a mode, from its centre
_SHARE = 5  # a mode that gets less than this part of its points is not covered

Points = NDArray[np.float64]  # [N, 2]


@dataclass(frozen=True)
class Score:
    """Of generated points.

    Attributes:
        distance: energy distance to the real ones: the root of 2 E|x - y| - E|x - x'| - E|y - y'|, from 0.
        modes: that get at least a fifth of their share, within three standard deviations; None: the set has no modes.
        good: share of points that lie so near to a mode; None likewise.
    """

    distance: float
    modes: int | None
    good: float | None


def score(generated: Points, real: Points, law: Modes | None) -> Score:
    """Of two sets of points. `law`: of the real ones."""
    distance = float(np.sqrt(max(0.0, 2 * _apart(generated, real) - _within(generated) - _within(real))))
    if law is None:
        return Score(distance, None, None)
    to_modes = np.linalg.norm(generated[:, None] - law.centres, axis=2)
    good = to_modes.min(axis=1) < _WITHIN * law.std
    counts = np.bincount(to_modes.argmin(axis=1)[good], minlength=len(law.centres))
    covered = counts >= len(generated) * law.shares / _SHARE
    return Score(distance, int(covered.sum()), float(good.mean()))


def _apart(a: Points, b: Points) -> float:
    return float(np.linalg.norm(a[:, None] - b, axis=2).mean())


def _within(a: Points) -> float:
    """Over pairs of different points."""
    return _apart(a, a) * len(a) / (len(a) - 1)
