"""How far a number may be off, because other images would have given another one: the jackknife that leaves out groups.

Every set of images is dealt into the same number of groups at random. The number is computed again without group g of
every set, for each g. How much it moves tells its standard error over images, of all sets together:

    stderr^2 = (G - 1) / G  sum over g of (value without g - their mean)^2        (Shao and Tu 1995, sec. 2.3)

With 10 groups the standard error is itself known to about a quarter. A bias that hangs on the number of images, such as
that of the Fréchet distance, is the same without any group, and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spider import draws

GROUPS = 10
LEAST = 2 * GROUPS  # images of a set, below which there is no standard error


def dealt(count: int, seed: int, which: str) -> NDArray[np.int64]:
    """The group of each of `count` images, int64 [count], in 0 .. GROUPS - 1; group sizes differ by 1 at most.

    `which` names the set, so that two sets of equal size are dealt apart.
    """
    return draws.generator(seed, f"metrics.jackknife.{which}").permutation(count) % GROUPS


def jackknife_stderr(without: Sequence[float]) -> float:
    """The standard error from the values without each group."""
    values = np.asarray(without, np.float64)
    return math.sqrt((len(values) - 1) * float(values.var()))
