"""A tie is told by the errors of what a rule orders by, not by those of CSID itself."""

from __future__ import annotations

import numpy as np

from neighbors.places import Judged
from neighbors.request import NeighborOptions
from neighbors.search import Pair
from neighbors.worker import DatasetSummary
from spider.judge.sid.cube import PAPER_RADII, FeatureSummary
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.kernels import Kernel

SET = DatasetSummary(FeatureSummary(100, np.zeros(4), np.ones(4)), colour=False)
NOISE = np.random.default_rng(0).standard_normal(200)


def curve(csid: float, errors: np.ndarray) -> SidCurve:
    radii = np.array(PAPER_RADII)
    values = np.full(len(radii), csid / len(radii))
    return SidCurve(Kernel(-1), "robust", radii, values, None, float(errors.std()), csid + errors)


def ties(rule: str, errors: float) -> tuple[str, ...]:
    """Of a source at 10, beside one at -11, whose errors are `errors` times those of the first."""
    pairs = [Pair("t", "a", "a"), Pair("t", "b", "b")]
    curves = {pairs[0]: [curve(10, NOISE)], pairs[1]: [curve(-11, errors * NOISE)]}
    judged = Judged(pairs, {"t": SET, "a": SET, "b": SET}, curves, {})
    return judged.places(NeighborOptions(keep_negative=True), rule)["a"].ties


def test_errors_are_paired_on_the_side_of_zero_that_the_score_is_on():
    assert ties("abs_csid", errors=-1) == ()  # 10 + e beside |-11 - e|
    assert ties("abs_csid", errors=1) == ("b",)
    assert ties("paper", errors=1) == ()
    assert ties("fd", errors=1) == ()  # CSID's errors say nothing of it
