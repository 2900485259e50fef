"""What came out of training one target from several sources, in words that follow from the numbers.

Two sources are told apart only if every value of one lies below every value of the other, over all training seeds and
all evaluation seeds. Otherwise the words say that the spread hides whatever difference there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from untrusted.counts import counted

Curve = list[tuple[float, float]]  # (kimg, distance), by kimg


@dataclass(frozen=True)
class Arm:
    """One source under one budget; lower distances are better.

    Attributes:
        source: name of the dataset or prior: `gaussian`, `letters`.
        words: what a sentence calls it: `Gaussian noise`, `letters`.
        finals: the distance at the end, a list over evaluation seeds for each training seed.
        curves: the distance while training, for each training seed.
    """

    source: str
    words: str
    finals: list[list[float]]
    curves: list[Curve]

    @property
    def values(self) -> list[float]:
        """Every final distance."""
        return [value for of_seed in self.finals for value in of_seed]

    @property
    def mean(self) -> float:
        """The mean final distance."""
        return fmean(self.values)

    @property
    def mean_curve(self) -> Curve:
        """The mean over training seeds, at every kimg that all of them have."""
        by_kimg = [dict(curve) for curve in self.curves]
        common = sorted(set.intersection(*map(set, by_kimg)))
        return [(kimg, fmean(each[kimg] for each in by_kimg)) for kimg in common]


@dataclass(frozen=True)
class Verdict:
    """What came out.

    Attributes:
        neighbour_helped: whether the first neighbour did better than the prior; None if the spread hides it.
        ranking_held: whether the first neighbour did better than the last one; None if the spread hides it.
        headline: the answer, two sentences.
        details: what it rests on.
    """

    neighbour_helped: bool | None
    ranking_held: bool | None
    headline: str
    details: list[str]


@dataclass(frozen=True)
class Measure:
    """Another measure of the prior and of the first neighbour.

    Attributes:
        label: what tables call it.
        higher_is_better: which way is better.
        prior, first: its values at the end, over all seeds.
    """

    label: str
    higher_is_better: bool
    prior: list[float]
    first: list[float]


def judge(prior: Arm, first: Arm, last: Arm, *, label: str, target: str, others: Sequence[Measure] = ()) -> Verdict:
    """Compare a prior with the neighbours that a ranking put first and last.

    Args:
        label: of the distance, e.g. `FD[offline]`.
        target: what was learned, as a sentence has it: `the digits`.
        others: what else was measured of the first two.
    """
    helped, held = is_lower(first.values, prior.values), is_lower(first.values, last.values)
    return Verdict(
        neighbour_helped=helped,
        ranking_held=held,
        headline=f"{_helped(helped, first, prior, target)} {_held(held, first, last)}",
        details=[
            f"{_course(prior, label)}.",
            *(f"{_course(arm, label)}; {_speed(arm, prior)}." for arm in (first, last)),
            *([_by_others(prior, first, others)] if others else []),
            _rule(prior),
        ],
    )


def is_lower(a: Sequence[float], b: Sequence[float]) -> bool | None:
    """Whether all of `a` lies below all of `b`; None if they overlap."""
    if max(a) < min(b):
        return True
    return False if min(a) > max(b) else None


def _helped(helped: bool | None, first: Arm, prior: Arm, target: str) -> str:
    spider = f"The Spider GAN fed by {first.words}, the nearest neighbour,"
    if helped is None:
        return (
            f"{spider} ended about as far from {target} as the GAN fed by {prior.words}: "
            "the spread hides which is nearer."
        )
    if helped:
        return f"{spider} came nearer to {target} than the GAN fed by {prior.words} under the same budget."
    return (
        f"{spider} stayed farther from {target} than the GAN fed by {prior.words} under the same budget: "
        "here the neighbour did not help."
    )


def _held(held: bool | None, first: Arm, last: Arm) -> str:
    if held is None:
        return (
            f"Between {first.words} and {last.words}, first and last in the ranking, the spread hides which fed better."
        )
    if held:
        return f"As the ranking has it, {first.words} fed a better GAN than {last.words}, the farthest neighbour."
    return f"Against the ranking, {last.words}, the farthest neighbour, fed a better GAN than {first.words}."


def _course(arm: Arm, label: str) -> str:
    """Where an arm was early, and where it ended."""
    quarter = arm.mean_curve[-1][0] / 4
    kimg, early = min(arm.mean_curve, key=lambda point: abs(point[0] - quarter))
    return (
        f"Fed by {arm.words}: {label} {early:.3g} after {kimg:g} kimg, {arm.mean:.3g} at the end "
        f"({min(arm.values):.3g} to {max(arm.values):.3g})"
    )


def _speed(arm: Arm, prior: Arm) -> str:
    """When an arm reached what the prior ended at, on the mean curves."""
    length, goal = prior.mean_curve[-1]
    reached = next((kimg for kimg, value in arm.mean_curve if value <= goal), None)
    if reached is None:
        return f"it never reached {goal:.3g}, where the GAN fed by {prior.words} ended"
    return f"it reached {goal:.3g}, where the GAN fed by {prior.words} ended, after {reached:g} of {length:g} kimg"


def _by_others(prior: Arm, first: Arm, others: Sequence[Measure]) -> str:
    """By which other measures the first neighbour did better than the prior, worse, or as well."""
    labels: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for other in others:
        lower = is_lower(other.first, other.prior)
        labels[None if lower is None else lower != other.higher_is_better].append(other.label)
    words = {True: "better in", False: "worse in", None: "not to be told apart in"}
    found = "; ".join(f"{words[key]} {', '.join(names)}" for key, names in labels.items() if names)
    return f"By other measures, fed by {first.words} against fed by {prior.words}: {found}."


def _rule(arm: Arm) -> str:
    return (
        f"Behind each number: {counted(len(arm.finals), 'training seed')} with "
        f"{counted(len(arm.finals[0]), 'evaluation seed')} each. Two sources are called different only if all "
        "values of one lie below all values of the other: a rule for reading a demonstration, not a test of "
        "significance."
    )
