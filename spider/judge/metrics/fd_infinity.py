"""FD-infinity: what the Fréchet distance would be of infinitely many samples, read off a line through smaller numbers.

FD of N samples is biased upwards by about a constant / N, and the constant hangs on the generator. So FD is taken at 15
numbers of samples, and the line through FD against 1 / N is followed to 1 / N = 0 (Chong and Forsyth 2020; the sizes
are those of dgm-eval, 15 equally spaced from min(5000, N / 10) to N). The bias of a small reference stays in it: all of
the reference is used each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spider import draws
from spider.errors import SpiderUsageError
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.frechet import law_distance, too_few_images
from spider.judge.metrics.jackknife import GROUPS, LEAST, dealt, jackknife_stderr
from spider.judge.metrics.law_parts import FixedLaw, LawParts, law_here
from spider.judge.metrics.spread import spread

SIZES = 15
_FEWEST = 30  # samples: the smallest size is then 3


def sizes_of(count: int) -> NDArray[np.int64]:
    """The numbers of samples at which FD is taken, ascending, int64 [SIZES]."""
    return np.linspace(min(5000, max(count // 10, 2)), count, SIZES).astype(np.int64)


def subset_of(count: int, k: int, seed: int) -> NDArray[np.int64]:
    """The samples of size number k, drawn from `count` without replacement."""
    size = int(sizes_of(count)[k])
    return draws.generator(seed, "metrics.fd_infinity", k).permutation(count)[:size]


@dataclass(frozen=True)
class Line:
    """A line through values against 1 / N, by least squares.

    Attributes:
        intercept: its value at 1 / N = 0.
        stderr: of the intercept, from how far the values lie off the line.
    """

    intercept: float
    slope: float
    stderr: float

    @classmethod
    def through(cls, sizes: NDArray[np.int64], values: NDArray[np.float64]) -> Line:
        """Of three points or more."""
        x = 1 / sizes
        design = np.stack([np.ones_like(x), x], axis=1)
        (intercept, slope), *_ = np.linalg.lstsq(design, values, rcond=None)
        residual = values - design @ (intercept, slope)
        covariance = np.linalg.inv(design.T @ design) * (residual @ residual) / (len(x) - 2)
        return cls(float(intercept), float(slope), math.sqrt(covariance[0, 0]))


def score_fd_infinity(c: Comparison) -> Score:
    """See above. All ranks.

    The standard error has two parts: that of the line, from the draws of the smaller sets, and that of FD at all
    images, from leaving out groups of samples and of the reference, where its images are at hand.
    """
    count, ddof = len(c.samples), c.protocol.ddof
    if count < _FEWEST:
        raise SpiderUsageError(f"FD-infinity needs at least {_FEWEST} samples, found {count}")
    sizes = sizes_of(count)
    samples = LawParts(c.samples, dealt(count, c.seed, "samples"), c.world, ddof, c.heartbeat)
    reference: LawParts | FixedLaw
    if c.reference_law is None:
        groups = dealt(len(c.reference), c.seed, "reference")
        reference = LawParts(c.reference, groups, c.world, ddof, c.heartbeat)
    else:
        reference = FixedLaw(c.reference_law)
    with_error = c.reference_law is not None or len(c.reference) >= LEAST

    def unit(u: int) -> tuple[Tensor]:
        """FD of size number u; beyond them, FD without a group."""
        if u >= SIZES:
            laws = (samples.without(u - SIZES), reference.without(u - SIZES))
        elif sizes[u] == count:
            laws = (samples.whole, reference.whole)
        else:
            laws = (law_here(c.samples[subset_of(count, u, c.seed)], ddof, c.world.device), reference.whole)
        return (torch.tensor(law_distance(*laws), dtype=torch.float64),)

    (distances,) = spread(
        c.world,
        SIZES + (GROUPS if with_error else 0),
        unit,
        label="fd_infinity",
        progress=c.progress,
        heartbeat=c.heartbeat,
    )
    values = distances[:SIZES].cpu().numpy()
    line = Line.through(sizes, values)
    return Score(
        line.intercept,
        stderr=math.hypot(line.stderr, jackknife_stderr(distances[SIZES:].tolist())) if with_error else None,
        protocol={"ddof": ddof, "sizes": sizes.tolist(), "groups": GROUPS},
        warnings=_warnings(c, int(sizes[0])),
        details={"distances": values.tolist(), "slope": line.slope},
    )


def _warnings(c: Comparison, smallest: int) -> list[str]:
    dim = c.samples.shape[1]
    reference = None if c.reference_law is not None else too_few_images(len(c.reference), dim)
    samples = too_few_images(smallest, dim)
    return [
        *([f"reference: {reference}"] if reference else []),
        *([f"the smallest set of samples: {samples}; the line may bend there"] if samples else []),
    ]
