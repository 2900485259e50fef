"""The rules that order a target's sources, by name. `selection.select` makes places of what a rule says.

| rule | what is lowest comes first | what is dropped |
|---|---|---|
| `paper` | CSID | CSID < 0 |
| `abs_csid` | the absolute value of CSID | |
| `tolerant_csid` | CSID, where less variance than the target's counts as much as the target's | less than half of it |
| `standard_csid` | CSID of standardised features | that CSID < 0 |
| `fd` | Fréchet distance | |
| `kd` | kernel distance | |
| `mean_rank` | the mean of the places by `abs_csid`, `fd` and `kd` | |

No rule picks the target itself, nor gray sources of a target that has colour (see `selection`). Which rule is worth
what is measured in docs/results/neighbour-rules.md. This module needs no torch, so that a login node knows the names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_SPREAD = 0.5  # of the target's total variance; below, `tolerant_csid` calls a source collapsed

Scores = list[float]


@dataclass(frozen=True)
class Candidate:
    """A source as the rules see it. A number that is not known is NaN, which comes last.

    Attributes:
        csid: its area.
        stderr: standard error of `csid`; None where it is not known.
        is_target: whether it has the target's images.
        is_gray: whether it has no colour.
        tolerant_csid: `csid`, were the source to vary at least as much as the target.
        standard_csid: CSID of features in units of the target's standard deviations.
        spread: total variance of its features, divided by the target's.
        fd: Fréchet distance to the target.
        kd: kernel distance to the target.
    """

    name: str
    csid: float
    stderr: float | None = None
    is_target: bool = False
    is_gray: bool = False
    tolerant_csid: float = math.nan
    standard_csid: float = math.nan
    spread: float = math.nan
    fd: float = math.nan
    kd: float = math.nan


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: as `--rule` takes it.
        scores: of all sources that take part, the lowest first.
        drops: why a source cannot be a pick; None if it can. What is dropped is less diverse than the target in some
            sense, so that `keep_negative` lifts it.
        slope: how the score moves with CSID: 1 or -1; 0 if it does not, so that CSID's errors say nothing of it.
        by_sign: whether the sign of CSID decides.
    """

    name: str
    scores: Callable[[Sequence[Candidate]], Scores]
    drops: Callable[[Candidate], str | None] = lambda source: None
    slope: Callable[[Candidate], float] = lambda source: 0.0
    by_sign: bool = False


def paper(source: Candidate) -> float:
    """CSID, as the authors of Spider GAN rank. With `less_diverse_dropped` it makes all picks of their poster.

    To first order CSID is T_s - T_t + |mu_s - mu_t|^2, with T the total variance of the features. So it rewards a near
    mean, and a source that varies little, until their sum is below the target's variance and the source is dropped.
    """
    return source.csid


def abs_csid(source: Candidate) -> float:
    """|CSID|: nothing is dropped for its sign. A tight and distant source may still be at 0."""
    return abs(source.csid)


def tolerant_csid(source: Candidate) -> float:
    """CSID with max(T_s, T_t) in the place of T_s: to vary less than the target is neither rewarded nor punished.

    What is left is the distance of the means, and how much more than the target a source varies.
    """
    return source.tolerant_csid


def standard_csid(source: Candidate) -> float:
    """CSID of (features - mu_t) / sigma_t, in each dimension.

    A dimension in which the target hardly varies counts as much as any other, so that rare features of a source show.
    """
    return source.standard_csid


def fd(source: Candidate) -> float:
    """Fréchet distance |mu_s - mu_t|^2 + tr(C_s + C_t - 2 (C_s C_t)^(1/2)): too much and too little variance alike.

    Heusel et al. 2017, as FID, under the search's embedding.
    """
    return source.fd


def kd(source: Candidate) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / n + 1)^3. Binkowski et al. 2018, as KID."""
    return source.kd


def mean_rank(sources: Sequence[Candidate]) -> Scores:
    """The mean of the places by `abs_csid`, `fd` and `kd`: what three measures agree on, whatever their units."""
    by_measure = [_places([measure(source) for source in sources]) for measure in (abs_csid, fd, kd)]
    return [sum(places) / len(places) for places in zip(*by_measure, strict=True)]


def less_diverse(source: Candidate) -> str | None:
    """CSID < 0."""
    return "less diverse than the target" if source.csid < 0 else None


def _less_diverse_by_standard(source: Candidate) -> str | None:
    return "less diverse than the target" if source.standard_csid < 0 else None


def _collapsed(source: Candidate) -> str | None:
    return f"less than {LEAST_SPREAD:g} of the target's variance" if source.spread < LEAST_SPREAD else None


def _each(score: Callable[[Candidate], float]) -> Callable[[Sequence[Candidate]], Scores]:
    return lambda sources: [score(source) for source in sources]


def _places(scores: Scores) -> list[float]:
    """1 for the lowest; equal scores share the mean of their places, and NaN is the highest."""
    scores = [math.inf if math.isnan(score) else score for score in scores]
    return [
        sum(other < score for other in scores) + (sum(other == score for other in scores) + 1) / 2 for score in scores
    ]


PAPER = "paper"
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(PAPER, _each(paper), less_diverse, lambda source: 1.0, by_sign=True),
        Rule("abs_csid", _each(abs_csid), slope=lambda source: math.copysign(1.0, source.csid)),
        Rule("tolerant_csid", _each(tolerant_csid), _collapsed, lambda source: 1.0),
        Rule("standard_csid", _each(standard_csid), _less_diverse_by_standard),
        Rule("fd", _each(fd)),
        Rule("kd", _each(kd)),
        Rule("mean_rank", mean_rank),
    )
}
