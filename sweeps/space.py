"""The points of a search space, by number: the n-th combination of a grid, the n-th draw, the n-th suggestion.

A grid's and a random search's n-th point is a function of the space, the seed and n; Optuna's is one of these and of
what the earlier points have come to by then. So nothing has to be remembered of a search but its points and results,
and a sweep that was killed goes on from those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from spider import draws
from spider.gan.sources.config import PRIORS
from sweeps.config import SOURCE, AxisConfig, SweepConfig
from sweeps.measure import Better

Point = dict[str, Any]  # by axis, its value

_DIGITS = 4  # of a number that is drawn: as many as a table shows, so that what it shows is what was trained


@dataclass(frozen=True)
class Axis:
    """The values of one key.

    Attributes:
        key: it, or `source`.
        values: all of them, where they can be listed.
        labels: what tables and names of runs call those.
        low, high: the bounds, included, where the values are numbers in between.
        log: whether the logarithm is what is uniform.
        whole: whether the numbers are whole.
        crossed: whether random search takes every value with every draw of the other axes.
    """

    key: str
    values: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    crossed: bool = False

    def at(self, part: float) -> Any:
        """The value that lies at `part` of the axis, in [0, 1)."""
        if self.values:
            return self.values[int(part * len(self.values))]
        if self.whole:
            return int(self.low + int(part * (self.high - self.low + 1)))
        if self.log:
            return self.rounded(math.exp(math.log(self.low) + part * math.log(self.high / self.low)))
        return self.rounded(self.low + part * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """To a few digits, within the bounds."""
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def label(self, value: Any) -> str:
        """What tables call a value."""
        if not self.values:
            return f"{value:g}"
        is_bool = isinstance(value, bool)  # which Python takes for 0 and 1
        same = (each == value and isinstance(each, bool) == is_bool for each in self.values)
        return next(label for label, found in zip(self.labels, same, strict=True) if found)

    def words(self) -> str:
        """All of it in a line."""
        if self.values:
            return ", ".join(self.labels)
        kind = " (logarithmic)" if self.log else " (whole)" if self.whole else ""
        return f"{self.low:g} to {self.high:g}{kind}"

    def samples(self) -> list[Any]:
        """Values that stand for all when a configuration is tried: every one, or the bounds and one in between."""
        return list(self.values) or [self.at(0.0), self.at(0.382), int(self.high) if self.whole else self.high]


class Search(Protocol):
    """Which points there are.

    Attributes:
        count: how many.
    """

    count: int

    def point(self, number: int, known: Sequence[Known]) -> Point:
        """Point `number`, from 0; `known` are those before it."""


@dataclass(frozen=True)
class Known:
    """A point that was tried: its value of the metric, or None as long as there is none."""

    point: Point
    value: float | None


def make_axis(key: str, config: AxisConfig) -> Axis:
    """The axis of one entry of `space`; that of neighbours is for `neighbor_axis`, after the search."""
    domain = config.domain
    if domain in ("grid", "choice"):
        values = tuple(getattr(config, domain))
        return Axis(key, values, _labels(key, values), crossed=domain == "grid")
    low, high = getattr(config, domain)
    return Axis(key, low=low, high=high, log=domain == "loguniform", whole=domain == "randint")


def source_axis(places: Mapping[str, str]) -> Axis:
    """The axis of sources that have names already."""
    return Axis(SOURCE, tuple(places.values()), tuple(places))


def make_search(sweep: SweepConfig, axes: Sequence[Axis], better: Better) -> Search:
    """The search that the sweep asks for."""
    if sweep.search.kind == "grid":
        return _Grid(axes)
    if sweep.search.kind == "random":
        return _Random(axes, sweep.search.trials, sweep.search.seed)
    return _Optuna(axes, sweep.search.trials, sweep.search.seed, better)


class _Grid:
    """Every combination, the last axis fastest."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._points = [
            dict(zip([axis.key for axis in axes], values, strict=True)) for values in product(*(a.values for a in axes))
        ]
        self.count = len(self._points)

    def point(self, number: int, known: Sequence[Known]) -> Point:
        return self._points[number]


class _Random:
    """Draws of the axes that are drawn from, each with every combination of those that are crossed."""

    def __init__(self, axes: Sequence[Axis], trials: int, seed: int) -> None:
        self._axes, self._seed = axes, seed
        self._crossed = _Grid([axis for axis in axes if axis.crossed])
        self.count = trials * self._crossed.count

    def point(self, number: int, known: Sequence[Known]) -> Point:
        draw, crossed = divmod(number, self._crossed.count)
        point = {
            axis.key: axis.at(draws.generator(self._seed, f"sweep.{axis.key}", draw).random())
            for axis in self._axes
            if not axis.crossed
        } | self._crossed.point(crossed, ())
        return {axis.key: point[axis.key] for axis in self._axes}


class _Optuna:
    """Suggestions of a tree of Parzen estimators, a new one for each, told everything that is known by then."""

    def __init__(self, axes: Sequence[Axis], trials: int, seed: int, better: Better) -> None:
        self._axes, self._seed, self._better = axes, seed, better
        self.count = trials

    def point(self, number: int, known: Sequence[Known]) -> Point:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        distributions = {axis.key: self._distribution(axis) for axis in self._axes}
        sampler = optuna.samplers.TPESampler(
            seed=int(draws.generator(self._seed, "sweep.optuna", number).integers(1 << 31)),
            constant_liar=True,  # points that are being tried count as bad, so that no two at once are the same
        )
        study = optuna.create_study(
            direction="minimize" if self._better == "lower" else "maximize",
            sampler=sampler,
        )
        for each in known:
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING if each.value is None else optuna.trial.TrialState.COMPLETE,
                    params={
                        axis.key: axis.label(each.point[axis.key]) if axis.values else each.point[axis.key]
                        for axis in self._axes
                    },
                    distributions=distributions,
                    value=each.value,
                )
            )
        params = study.ask(distributions).params
        return {axis.key: self._value(axis, params[axis.key]) for axis in self._axes}

    @staticmethod
    def _distribution(axis: Axis) -> Any:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if axis.values:
            return CategoricalDistribution(axis.labels)
        if axis.whole:
            return IntDistribution(int(axis.low), int(axis.high))
        return FloatDistribution(axis.low, axis.high, log=axis.log)

    @staticmethod
    def _value(axis: Axis, suggested: Any) -> Any:
        if axis.values:
            return axis.values[axis.labels.index(suggested)]
        return int(suggested) if axis.whole else axis.rounded(suggested)


def _labels(key: str, values: Sequence[Any]) -> tuple[str, ...]:
    if key != SOURCE:
        return tuple(_text(value) for value in values)
    return tuple(source_names([str(value) for value in values]))


def source_names(places: Sequence[str]) -> list[str]:
    """Short names of sources that tell them apart: the last folder of each, with those above where need be."""
    parts = [_parts(place) for place in places]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]).replace(":/", ":") for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(places)


def _parts(place: str) -> list[str]:
    if place.startswith("builtin:"):
        return ["builtin:", place.removeprefix("builtin:")]
    return [place] if place in PRIORS or ":" in place else list(Path(place).parts)


def _text(value: Any) -> str:
    """A value in a few characters: 0.1, true, hinge, kind-linear-k-8."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value).removesuffix(".0")  # all digits: two values of an axis must not have one label
    if isinstance(value, Mapping):
        kind = value.get("kind")
        rest = [f"{name}={_text(item)}" for name, item in value.items() if name != "kind"]
        return " ".join([*([str(kind)] if kind is not None else []), *rest])
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    return json.dumps(value)
