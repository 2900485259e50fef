"""What every rule says of the sources of one target, from curves, distances and moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from neighbors.request import NeighborOptions
from neighbors.search import Pair
from neighbors.worker import DatasetSummary
from spider.judge.sid.cube import Cube, FeatureSummary
from spider.judge.sid.curve import SidCurve, difference_stderr
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.oracle import at_least_as_diverse, closed_form, diagonal_frechet, standardised
from spider.judge.sid.rules import RULES, Candidate
from spider.judge.sid.selection import Place, select

Places = dict[str, Place]


@dataclass
class Judged:
    """Sources of one target, as far as they are known.

    Attributes:
        pairs: the target with each.
        summaries: of the datasets, by fingerprint.
        curves: of each pair, one for each kernel.
        distances: Fréchet and kernel distance of each pair. Of what has none, the Fréchet distance of means and
            variances alone stands for both.
    """

    pairs: Sequence[Pair]
    summaries: Mapping[str, DatasetSummary]
    curves: Mapping[Pair, Sequence[SidCurve]]
    distances: Mapping[Pair, tuple[float, float]]
    _candidates: dict[int, dict[str, Candidate]] = field(default_factory=dict, init=False)  # by order

    def places(self, options: NeighborOptions, rule: str, order: int = 0) -> Places:
        """By one rule and the curves of one kernel: by name, in the order of the ranks."""
        if order not in self._candidates:
            self._candidates[order] = {pair.name: self._candidate(pair, order) for pair in self.pairs}
        candidates, found = self._candidates[order], RULES[rule]
        signed = {
            pair.name: _times(self.curves[pair][order], found.slope(candidates[pair.name])) for pair in self.pairs
        }

        def stderr(a: str, b: str) -> float | None:
            one, other = signed[a], signed[b]
            return None if one is None or other is None else difference_stderr(one, other)

        return select(
            list(candidates.values()),
            target_is_gray=not self.summaries[self.pairs[0].target].colour,
            rule=found,
            picks=options.picks,
            keep_negative=options.keep_negative,
            keep_gray=options.keep_gray,
            difference_stderr=stderr,
        )

    def _candidate(self, pair: Pair, order: int) -> Candidate:
        curve = self.curves[pair][order]
        target, source = self.summaries[pair.target].features, self.summaries[pair.source].features
        screened = diagonal_frechet(target, source)
        fd, kd = self.distances.get(pair, (screened, screened))
        raised = _closed(target, at_least_as_diverse(source, target), curve.kernel)
        return Candidate(
            name=pair.name,
            csid=curve.csid,
            stderr=curve.csid_stderr,
            is_target=pair.source == pair.target,
            is_gray=not self.summaries[pair.source].colour,
            tolerant_csid=curve.csid + raised - _closed(target, source, curve.kernel),
            standard_csid=_closed(standardised(target, target), standardised(source, target), curve.kernel),
            spread=source.total_variance / target.total_variance,
            fd=fd,
            kd=kd,
        )


def _closed(target: FeatureSummary, source: FeatureSummary, kernel: Kernel) -> float:
    (curve,) = closed_form(Cube(target), source, [kernel])
    return curve.csid


def _times(curve: SidCurve, sign: float) -> SidCurve | None:
    """The curve under a score that moves so with CSID; None if it does not."""
    if sign == 0:
        return None
    replicates = None if curve.csid_replicates is None else sign * curve.csid_replicates
    return replace(curve, values=sign * curve.values, csid_replicates=replicates)
