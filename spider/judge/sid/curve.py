"""What comes out: signed distance against the radius of the cube, its area, and how far both may be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spider.errors import SpiderError
from spider.judge.sid.choices import Mode
from spider.judge.sid.cube import Floats
from spider.judge.sid.kernels import Kernel

POINTS = 500  # published curves are sums over 500 points of the cube, whatever number they were estimated from


@dataclass(frozen=True)
class SidCurve:
    """Signed distance of one source to one target under one kernel.

    Attributes:
        kernel: the kernel.
        mode: how it was computed: `robust`, `paper` or `screen` (closed form from moments).
        radii: float64 [R], sides of the cube in target standard deviations.
        values: float64 [R], in the published units: sum over 500 points of a mean over images.
        stderr: float64 [R], standard errors; None where the mode has none.
        csid_stderr: standard error of `csid`; None where the mode has none.
        csid_replicates: float64 [B], `csid` of images drawn again, for paired differences; `robust` only.
    """

    kernel: Kernel
    mode: Mode
    radii: Floats
    values: Floats
    stderr: Floats | None = None
    csid_stderr: float | None = None
    csid_replicates: Floats | None = None

    @property
    def csid(self) -> float:
        """The published area: the plain sum of `values`, one per radius, whatever lies between the radii."""
        return float(self.values.sum())

    @property
    def csid_trapezoid(self) -> float:
        """The area by the trapezoid rule over the same steps of 1; on the published radii some 6 % less."""
        return float(np.trapezoid(self.values))

    def require_finite(self, source: str) -> None:
        """Raise `SpiderError` if the kernel left the range of the numbers."""
        if not np.isfinite(self.values).all():
            raise SpiderError(f"{source}: SID of order {self.kernel.label} overflows: distances vary too much for it")


def difference_stderr(a: SidCurve, b: SidCurve) -> float | None:
    """Standard error of `a.csid - b.csid`, for two sources of one target from one call; None where unknown.

    In mode `robust` both saw the same points and the same target images, drawn again in the same way, so that what
    they share cancels. In mode `paper` they share nothing.
    """
    if a.csid_replicates is not None and b.csid_replicates is not None:
        return float((a.csid_replicates - b.csid_replicates).std(ddof=1))
    if a.csid_stderr is None or b.csid_stderr is None:
        return None
    return math.hypot(a.csid_stderr, b.csid_stderr)
