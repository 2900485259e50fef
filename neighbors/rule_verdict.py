"""Which rule puts sources in the order of what trainings on them came to, and how sure that is.

For every target there are sources, ranks of them under every rule, and outcomes [sources, seeds], lower is better. A
rule is judged by

    correlation     Spearman's, of its ranks with the mean outcomes over seeds; mean over targets
    first is best   how often its first source has the best mean outcome
    regret          how far the outcome of its first source lies above the best, as a part of the best

Intervals are of Student's t with T - 1 degrees of freedom for T targets, about a standard deviation that comes from a
bootstrap over targets, and within a target over the seeds of every source. Percentiles of a bootstrap over a handful of
targets would be much too narrow (Hesterberg, The American Statistician 69, 2015). They are not corrected for how many
rules are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from neighbors.rank_correlation import rank_correlation
from spider import draws

Floats = NDArray[np.float64]

REPLICATES = 4000


@dataclass(frozen=True)
class Target:
    """Sources of a target.

    Attributes:
        name: the target's.
        sources: their names.
        outcomes: float64 [sources, seeds], lower is better.
        ranks: of every source under each rule, 1 first: [sources] by rule.
    """

    name: str
    sources: Sequence[str]
    outcomes: Floats
    ranks: Mapping[str, Sequence[int]]

    def seed_agreement(self) -> float | None:
        """Mean rank correlation of one seed's outcomes with another's: what a rule could reach. None for one seed."""
        pairs = [rank_correlation(a, b) for a, b in combinations(self.outcomes.T, 2)]
        return float(np.mean(pairs)) if pairs else None


@dataclass(frozen=True)
class Verdict:
    """What a rule is worth.

    Attributes:
        rule: its name.
        by_target: correlation for every target.
        correlation: mean over targets.
        interval: 95 % of it.
        better: of `correlation` less that of the rule that others are compared with: mean and 95 % interval.
        first_is_best: part of the targets and drawn seeds.
        regret: mean over targets.
    """

    rule: str
    by_target: dict[str, float]
    correlation: float
    interval: tuple[float, float]
    better: tuple[float, float, float]
    first_is_best: float
    regret: float


def verdicts(targets: Sequence[Target], *, than: str, seed: int = 0) -> list[Verdict]:
    """A verdict for each rule, the best correlation first.

    Args:
        targets: one at least, with the same rules.
        than: the rule that all are compared with.
        seed: of the bootstrap.
    """
    rules = list(targets[0].ranks)
    rng = draws.generator(seed, "neighbors.rules")
    drawn = [_replicates(target, rules, rng) for target in targets]
    correlations = np.stack([each[0] for each in drawn])  # [T, replicates, rules]
    best = np.stack([each[1] for each in drawn])
    which = rng.integers(len(targets), size=(REPLICATES, len(targets)))
    means = correlations[which, np.arange(REPLICATES)[:, None]].mean(1)  # [replicates, rules]
    compared = rules.index(than)
    found = []
    for k, rule in enumerate(rules):
        by_target = {target.name: _spearman(_ranks_of(target, rule), target.outcomes.mean(1)) for target in targets}
        plain = {target.name: _spearman(_ranks_of(target, than), target.outcomes.mean(1)) for target in targets}
        difference = float(np.mean(list(by_target.values())) - np.mean(list(plain.values())))
        found.append(
            Verdict(
                rule,
                by_target,
                float(np.mean(list(by_target.values()))),
                _interval(float(np.mean(list(by_target.values()))), means[:, k], len(targets), 1),
                (difference, *_interval(difference, means[:, k] - means[:, compared], len(targets), 2)),
                float(best[:, :, k].mean()),
                float(np.mean([_regret(target, rule) for target in targets])),
            )
        )
    return sorted(found, key=lambda each: -each.correlation)


def _replicates(target: Target, rules: Sequence[str], rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Of every rule its correlation, and whether its first source is the best, as seeds are drawn: [drawn, rules]."""
    sources, seeds = target.outcomes.shape
    chosen = rng.integers(seeds, size=(REPLICATES, sources, seeds))
    means = np.take_along_axis(target.outcomes[None], chosen, axis=2).mean(2)  # [replicates, sources]
    places = means.argsort(1).argsort(1) + 1.0
    ranks = np.stack([_ranks_of(target, rule) for rule in rules])  # [rules, sources]
    squares = np.square(places[:, None] - ranks[None]).sum(2)
    first = ranks.argmin(1)  # [rules]
    return 1 - 6 * squares / (sources * (sources**2 - 1)), first[None] == means.argmin(1)[:, None]


def _ranks_of(target: Target, rule: str) -> Floats:
    return np.array(target.ranks[rule], np.float64)


def _spearman(ranks: Floats, outcomes: Floats) -> float:
    return rank_correlation(ranks, outcomes)


def _regret(target: Target, rule: str) -> float:
    means = target.outcomes.mean(1)
    return float(means[_ranks_of(target, rule).argmin()] / means.min() - 1)


def _interval(middle: float, replicates: Floats, targets: int, limit: float) -> tuple[float, float]:
    """Of a mean over targets that lies between -limit and limit."""
    if targets == 1:
        return -limit, limit
    from scipy.stats import t

    spread = float(t.ppf(0.975, targets - 1) * np.sqrt(targets / (targets - 1)) * replicates.std())
    return max(middle - spread, -limit), min(middle + spread, limit)
