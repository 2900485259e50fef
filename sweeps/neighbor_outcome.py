"""Does a near neighbour make a good GAN? The ranking of a neighbour search beside what its sources made of trainings.

A source is judged by the best of its configurations, at the largest number of images at which every source has one
that all its seeds reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neighbors.rank_correlation import rank_correlation, rank_correlation_interval
from spider.judge.sid.rules import RULES
from spider.tables import aligned
from sweeps.config import SOURCE
from sweeps.neighbor_sources import Ranking

if TYPE_CHECKING:
    from sweeps.measure import Measure
    from sweeps.report import Row


@dataclass(frozen=True)
class Trained:
    """What trainings on one source came to.

    Attributes:
        source: its name.
        values: the metric of every seed of its best configuration.
        number: of that configuration.
    """

    source: str
    values: list[float]
    number: int

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Agreement:
    """How a ranking agrees with the trainings.

    Attributes:
        order: of the kernel.
        rule: what ranked.
        correlation: Spearman's, of the place in the ranking with how bad the GANs are: 1 if the nearer always made the
            better GAN.
        interval: 95 %; None for fewer than five.
        sources: how many were compared.
    """

    order: str
    rule: str
    correlation: float | None
    interval: tuple[float, float] | None
    sources: int

    @property
    def number(self) -> str:
        """The correlation alone."""
        return "-" if self.correlation is None else f"{self.correlation:+.2f}"

    @property
    def words(self) -> str:
        """For tables and figures."""
        if self.correlation is None:
            return f"{self.sources} sources: no rank correlation"
        told = f"rank correlation {self.number}, {self.sources} sources"
        if self.interval is None:
            return f"{told}: too few for an interval"
        return f"{told}, 95 % interval {self.interval[0]:+.2f} to {self.interval[1]:+.2f}"


@dataclass(frozen=True)
class NeighborOutcome:
    """Rankings beside trainings.

    Attributes:
        label: what tables call the metric.
        better: which way.
        kimg: where the trainings are compared.
        rankings: one per order.
        trained: by source, best first.
        diverged: sources of which every configuration has a seed that was not finite; they count as the worst.
        left_out: sources that were not trained far enough to be compared.
        agreements: one per order.
        by_rule: one per rule that ranks every source compared, by the first order.
    """

    label: str
    better: str
    kimg: float
    rankings: list[Ranking]
    trained: list[Trained]
    diverged: list[str]
    left_out: list[str]
    agreements: list[Agreement]
    by_rule: list[Agreement]

    def table(self) -> str:
        """For a terminal."""
        orders = [cell for ranking in self.rankings for cell in (f"CSID[{ranking.order}]", "rank")]
        rows = [["source", "picked under order", *orders, f"{self.label} at {self.kimg:g} kimg", "±", "seeds"]]
        trained = {each.source: each for each in self.trained}
        names = [each.source for each in self.rankings[0].sources]
        for name in sorted(names, key=lambda name: list(trained).index(name) if name in trained else len(trained)):
            rows.append([name, self._picked(name), *self._places(name), *_came_to(trained.get(name))])
        words = [
            f"does a near place by {ranking.label} make a better GAN? {each.words}"
            for ranking, each in zip(self.rankings, self.agreements, strict=True)
        ]
        if self.by_rule:
            each = ", ".join(f"{found.rule} {found.number}" for found in self.by_rule)
            words.append(f"rank correlation under each rule: {each} (intervals in sweep.json)")
        if self.diverged:
            words.append(f"! not finite under some seed, and counted as the worst: {', '.join(self.diverged)}")
        if self.left_out:
            words.append(f"! not trained far enough under every seed, and left out: {', '.join(self.left_out)}")
        return "\n".join([f"neighbours, {self.rankings[0].embedding}", aligned(rows), *words])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "kimg": self.kimg,
            "rankings": [asdict(ranking) for ranking in self.rankings],
            "trained": [{**asdict(each), "mean": each.mean} for each in self.trained],
            "diverged": self.diverged,
            "left_out": self.left_out,
            "agreements": [asdict(each) for each in self.agreements],
            "by_rule": [asdict(each) for each in self.by_rule],
        }

    def _picked(self, name: str) -> str:
        return ", ".join(ranking.order for ranking in self.rankings if name in ranking.picks) or "-"

    def _places(self, name: str) -> list[str]:
        cells = []
        for ranking in self.rankings:
            [found] = [each for each in ranking.sources if each.source == name]
            cells += [f"{found.csid:.4g}", str(found.rank)]
        return cells


def neighbor_outcome(rankings: Sequence[Ranking], rows: Sequence[Row], measure: Measure, label: str) -> NeighborOutcome:
    """What the rows say of the sources."""
    sources = dict.fromkeys(row.labels[SOURCE] for row in rows)
    reached = [
        {each.kimg for row in rows if row.labels[SOURCE] == source for each in row.curves[0] if row.at(each.kimg)}
        if any(row.labels[SOURCE] == source and row.is_whole for row in rows)
        else set()
        for source in sources
    ]
    shared = set.intersection(*(kimgs for kimgs in reached if kimgs)) if any(reached) else set()
    kimg = max(shared, default=0.0)
    sign = 1.0 if measure.better == "lower" else -1.0
    of_source = {source: [row for row in rows if row.labels[SOURCE] == source] for source in sources}
    best = {source: _best(source, of_source[source], kimg, sign) for source in sources}
    trained = sorted((each for each in best.values() if each is not None), key=lambda each: sign * each.mean)
    diverged = [source for source in sources if best[source] is None and _has_diverged(of_source[source])]
    left_out = [source for source in sources if best[source] is None and source not in diverged]
    badness = {each.source: sign * each.mean for each in trained} | dict.fromkeys(diverged, np.inf)
    agreements = [
        _agreement(ranking.order, ranking.rule, {each.source: each.rank for each in ranking.sources}, badness)
        for ranking in rankings
    ]
    return NeighborOutcome(
        label,
        measure.better,
        kimg,
        list(rankings),
        trained,
        diverged,
        left_out,
        agreements,
        _by_rule(rankings[0], badness),
    )


def _has_diverged(rows: Sequence[Row]) -> bool:
    return all(any(trial.outcome == "not finite" for trial in row.configuration.trials) for row in rows)


def _best(source: str, rows: Sequence[Row], kimg: float, sign: float) -> Trained | None:
    there = [(row.at(kimg), row.configuration.number) for row in rows if row.at(kimg)]
    if not there:
        return None
    values, number = min(there, key=lambda each: sign * float(np.mean(each[0])))
    return Trained(source, values, number)


def _by_rule(ranking: Ranking, badness: Mapping[str, float]) -> list[Agreement]:
    """Of each rule that has a rank for every source of `badness`."""
    ranks = {each.source: each.by_rule for each in ranking.sources}
    rules = [rule for rule in RULES if all(rule in ranks[source] for source in badness)]
    return [
        _agreement(ranking.order, rule, {source: ranks[source][rule] for source in badness}, badness) for rule in rules
    ]


def _agreement(order: str, rule: str, places: Mapping[str, int], badness: Mapping[str, float]) -> Agreement:
    place = np.array([float(places[source]) for source in badness])
    correlation = rank_correlation(place, np.array(list(badness.values())))
    if not np.isfinite(correlation):
        return Agreement(order, rule, None, None, len(badness))
    return Agreement(order, rule, correlation, rank_correlation_interval(correlation, len(badness)), len(badness))


def _came_to(trained: Trained | None) -> list[str]:
    if trained is None:
        return ["-", "-", "-"]
    spread = f"{np.std(trained.values, ddof=1):.2g}" if len(trained.values) > 1 else "-"
    return [f"{trained.mean:.4g}", spread, str(len(trained.values))]
