"""A tie is told by the errors of what a rule orders by, not by those of CSID itself."""

from __future__ import annotations

import re

import numpy as np

from neighbors.places import Judged
from neighbors.report import NeighborRow
from neighbors.request import NeighborOptions
from neighbors.rule_ranks import first_pick_lines
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


def said_of_first(rule: str, own: float, shared: float, other: float = 111.7) -> list[str]:
    """Of sources at 107.4, `other` and 150, whose errors are `own` and, in all of them alike, `shared`."""
    errors = np.random.default_rng(1).standard_normal((3, 200))
    pairs = [Pair("t", name, name) for name in "abc"]
    numbers = zip(pairs, (107.4, other, 150.0), errors, strict=True)
    curves = {pair: [curve(number, own * each + shared * NOISE)] for pair, number, each in numbers}
    judged = Judged(pairs, dict.fromkeys("tabc", SET), curves, {})
    rows = [
        NeighborRow(name, 100, [place], curves[Pair("t", name, name)], [], None, None, {})
        for name, place in judged.places(NeighborOptions(picks=1), rule).items()
    ]
    return first_pick_lines(rows, rule)


def test_the_first_pick_says_whether_it_is_nearer_beyond_the_error():
    (within,) = said_of_first("paper", own=3.1, shared=0)
    assert re.fullmatch(
        r"! the first pick, a, is nearer only within the error \(95 %\): b is 4\.3 ± \d\.\d farther", within
    )
    (beyond,) = said_of_first("paper", own=0.5, shared=3.1)
    assert re.match(r"the first pick, a, is nearer beyond the error: b is 4\.30 ± 0\.\d\d farther; all", beyond)
    assert said_of_first("paper", own=0.5, shared=0) == []  # the numbers with their errors say it
    assert said_of_first("fd", own=3.1, shared=0) == []  # they are not what ranks
    (signs,) = said_of_first("abs_csid", own=3.1, shared=0, other=-111.7)
    assert signs.endswith("(95 %): b")
