"""What came of a sweep: a table, files, figures, and the command that trains the winner at full length.

    OUT/sweep.json     {"metric": {...}, "axes": {...}, "configurations": [...], "neighbors": {...}, "winner": {...}}
        sweep.csv      the configurations, best first
        parallel.png   every configuration as a line through its values, to the metric
        outcome.png    the neighbours' distances beside what trainings on them came to, if the sources are neighbours

A configuration is judged by the mean over its seeds at the largest number of images that all of them reached: a mean
over those alone that a scheduler let go on would be one of lucky ones. What came farther stands before what did not.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import MachineError
from spider.config.explain import as_yaml
from spider.config.load import flatten
from spider.errors import SpiderError
from spider.files import write_text
from spider.tables import aligned
from sweeps.config import SOURCE
from sweeps.figures import draw_outcome, draw_parallel
from sweeps.ledger import Configuration, Ledger, Trial, common
from sweeps.measure import Evaluated, Measure
from sweeps.neighbor_outcome import NeighborOutcome, neighbor_outcome
from sweeps.neighbor_sources import Ranking
from sweeps.plan import SweepPlan
from sweeps.space import Axis
from sweeps.trial.config import train_words
from untrusted.counts import counted

FORMAT = 1

_ROWS = 20  # of the table on the screen


@dataclass(frozen=True)
class Row:
    """One configuration.

    Attributes:
        configuration: it.
        labels: its values, as tables call them, by axis.
        kimg: where its seeds are compared; 0 if they have no evaluation in common.
        by_seed: the metric there, of every seed that is finite.
        curves: all evaluations of those seeds.
    """

    configuration: Configuration
    labels: dict[str, str]
    kimg: float
    by_seed: dict[int, float]
    curves: list[list[Evaluated]]

    @property
    def values(self) -> list[float]:
        """The metric of every seed that is finite."""
        return list(self.by_seed.values())

    @property
    def mean(self) -> float | None:
        """Over the seeds; None if there is nothing to take one of."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def is_whole(self) -> bool:
        """Whether every seed counts."""
        return bool(self.values) and len(self.values) == len(self.configuration.trials)

    def at(self, kimg: float) -> list[float]:
        """The values of all seeds at `kimg`; empty unless every one has one."""
        found = [
            [each.value for each in curve if each.kimg == kimg and each.value is not None] for curve in self.curves
        ]
        return [values[0] for values in found] if all(found) and self.is_whole else []

    def state(self) -> str:
        """How its trials ended: `finished`, `1 finished, 1 stopped`."""
        if self.configuration.refused is not None:
            return f"refused: {self.configuration.refused}"
        outcomes = [trial.outcome or "not over" for trial in self.configuration.trials]
        if len(set(outcomes)) == 1:
            return outcomes[0]
        return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))


@dataclass(frozen=True)
class SweepReport:
    """What came of a sweep.

    Attributes:
        out: its folder.
        label: what tables call the metric.
        measure: what trials are compared by.
        axes: what differs.
        rows: the configurations, best first.
        outcome: neighbours beside trainings; None if the sources are not neighbours.
        winner: the command that trains the best at full length; None if there is none.
        small: keys of that command, with their values, that make a training smaller or its evaluations coarser.
        is_complete: whether every trial has ended.
        counts: of trials, by how they ended.
        warnings: why to doubt some of it.
    """

    out: Path
    label: str
    measure: Measure
    axes: list[Axis]
    rows: list[Row]
    outcome: NeighborOutcome | None
    winner: str | None
    small: list[str]
    is_complete: bool
    counts: dict[str, int]
    warnings: list[str]

    @cached_property
    def seeds(self) -> int:
        """How many each configuration has."""
        return max((len(row.configuration.trials) for row in self.rows), default=0)

    def failure(self) -> Exception | None:
        """What the command ends with where trials failed: the machine's failure, if it failed all of them."""
        failed = _failed(self.rows)
        if not failed:
            return None
        line = f"{counted(len(failed), 'trial')} failed; what they printed is in {self.out}/logs"
        if all(trial.by_machine for trial in failed):
            return MachineError(f"{line}; the same command goes on")
        return SpiderError(line)

    def table(self) -> str:
        """For a terminal."""
        parts = [self._title(), aligned([self._header(), *map(self._cells, enumerate(self.rows[:_ROWS], start=1))])]
        if len(self.rows) > _ROWS:
            parts.append(f"and {len(self.rows) - _ROWS} more: {self.out / 'sweep.csv'}")
        parts += [f"! {warning}" for warning in self.warnings]
        if self.outcome is not None:
            parts += ["", self.outcome.table()]
        if self.winner is not None:
            best = "the winner" if self.is_complete else "the best so far"
            parts += ["", f"{best} at full length:", f"  {self.winner}"]
            if self.small:
                parts.append(f"for a real run, think of raising what the sweep kept small: {', '.join(self.small)}")
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The document of sweep.json."""
        return {
            "format": FORMAT,
            "complete": self.is_complete,
            "metric": {"label": self.label, **asdict(self.measure)},
            "axes": {axis.key: list(axis.labels) or [axis.low, axis.high] for axis in self.axes},
            "trials": self.counts,
            "configurations": [self._row_json(row) for row in self.rows],
            "neighbors": None if self.outcome is None else self.outcome.to_json(),
            "winner": self.winner,
            "small": self.small,
            "warnings": self.warnings,
        }

    def to_csv(self) -> str:
        """The configurations, a column per number."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        seeds = dict.fromkeys(trial.seed for row in self.rows for trial in row.configuration.trials)
        each = [f"seed {seed}" for seed in seeds]
        writer.writerow(["configuration", *self._keys, "kimg", self.label, "std", "seeds", *each, "state"])
        for row in self.rows:
            labels = [row.labels[key] for key in self._keys]
            spread = [row.kimg or None, row.mean, row.std, len(row.values), *(row.by_seed.get(seed) for seed in seeds)]
            writer.writerow([row.configuration.number, *labels, *spread, row.state()])
        return out.getvalue()

    def write(self, out: Path) -> None:
        """Write files and figures."""
        write_text(out / "sweep.json", json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
        write_text(out / "sweep.csv", self.to_csv())
        if any(row.mean is not None for row in self.rows):
            draw_parallel(self, out / "parallel.png")
        if self.outcome is not None and self.outcome.trained:
            draw_outcome(self.outcome, out / "outcome.png")

    @property
    def _keys(self) -> list[str]:
        return [axis.key for axis in self.axes]

    def _title(self) -> str:
        seeds = f" x {self.seeds} seeds" if self.seeds > 1 else ""
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        configurations = counted(len(self.rows), "configuration")
        return f"{configurations}{seeds}, {self.measure.better} {self.label} is better; trials: {ended}"

    def _header(self) -> list[str]:
        spread = ["±", "seeds"] if self.seeds > 1 else []
        return ["", *self._keys, self.label, *spread, "kimg", "", "run"]

    def _cells(self, numbered: tuple[int, Row]) -> list[str]:
        rank, row = numbered
        trials = row.configuration.trials
        name = trials[0].name if trials else "-"
        spread = [_number(row.std), f"{len(row.values)}/{len(trials)}"] if self.seeds > 1 else []
        return [
            str(rank),
            *(row.labels[key] for key in self._keys),
            _number(row.mean),
            *spread,
            f"{row.kimg:g}" if row.kimg else "-",
            row.state(),
            name if len(trials) < 2 else f"{name.partition('_')[0]}_*",
        ]

    def _row_json(self, row: Row) -> dict[str, Any]:
        return {
            **row.configuration.to_json(),
            "labels": row.labels,
            "kimg": row.kimg or None,
            "mean": row.mean,
            "std": row.std,
            "values": row.values,
            "state": row.state(),
            "run": [str(Path("runs") / trial.name) for trial in row.configuration.trials],
        }


def make_report(plan: SweepPlan, axes: list[Axis], ledger: Ledger, rankings: Sequence[Ranking]) -> SweepReport:
    """The report of what the ledger has by now."""
    rows = sorted((_row(each, axes, ledger) for each in ledger.configurations), key=lambda row: _key(row, plan.measure))
    labels = [each.label for row in rows for curve in row.curves for each in curve]
    label = labels[0] if labels else plan.label
    outcomes = [trial.outcome or "not over" for trial in ledger.trials]
    best = rows[0] if rows and rows[0].mean is not None else None
    return SweepReport(
        out=plan.out,
        label=label,
        measure=plan.measure,
        axes=axes,
        rows=rows,
        outcome=neighbor_outcome(rankings, rows, plan.measure, label) if rankings else None,
        winner=None if best is None else _winner(plan, best.configuration),
        small=[] if best is None else _small(plan),
        is_complete=ledger.is_complete,
        counts={outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
        warnings=[*_warnings(rows, plan), *_gone(ledger), *_unequal(rows, ledger)],
    )


def _row(configuration: Configuration, axes: Sequence[Axis], ledger: Ledger) -> Row:
    finite = [trial for trial in configuration.trials if trial.outcome not in ("not finite", "failed")]
    curves = [ledger.curve(trial) for trial in finite]
    kimg, values = common(curves)
    labels = {axis.key: axis.label(configuration.point[axis.key]) for axis in axes}
    by_seed = {trial.seed: value for trial, value in zip(finite, values, strict=False)}  # all of them, or none
    return Row(configuration, labels, kimg, by_seed, curves)


def _key(row: Row, measure: Measure) -> tuple[Any, ...]:
    """What counts whole first, then what came farther, then what is better."""
    mean = row.mean
    if mean is None:
        return (2, 0.0, 0.0, row.configuration.number)
    return (0 if row.is_whole else 1, -row.kimg, mean if measure.better == "lower" else -mean, row.configuration.number)


def _winner(plan: SweepPlan, best: Configuration) -> str:
    words = train_words(
        plan.sweep,
        best.point,
        best.source,
        config=plan.sweep.config,
        seed=plan.sweep.seeds[0],
        kimg=plan.full_kimg,
    )
    return shlex.join(["spider", "train", words[0], "--run", str(plan.out / "winner"), *words[1:]])


def _small(plan: SweepPlan) -> list[str]:
    """The overrides of all trials that are there for speed: networks have them, or evaluations."""
    keys = (*plan.example.networks_shrunk_by, "evaluate.count")
    said = flatten(plan.sweep.overrides)
    return [f"{key}={as_yaml(said[key])}" for key in keys if key in said]


def _warnings(rows: Sequence[Row], plan: SweepPlan) -> list[str]:
    failed = _failed(rows)
    found = [f"{trial.name} failed: {trial.error} ({plan.out / 'logs' / f'{trial.name}.txt'})" for trial in failed]
    others = [key for key, axis in plan.sweep.space.items() if key != SOURCE and axis.domain != "grid"]
    if plan.neighbors is not None and others:
        found.append(
            f"the sources were tried with different {', '.join(others)}: only a grid compares them with all alike"
        )
    if rows and rows[0].mean is not None and not rows[0].is_whole:
        found.append(f"no configuration has a value under every seed; the first is {rows[0].state()}")
    best = [row for row in rows if row.mean is not None and row.is_whole][:2]
    if len(best) == 2 and best[0].kimg == best[1].kimg:
        found += _tie(best[0], best[1])
    return found


def _failed(rows: Sequence[Row]) -> list[Trial]:
    return [trial for row in rows for trial in row.configuration.trials if trial.outcome == "failed"]


def _gone(ledger: Ledger) -> list[str]:
    return [
        f"{trial.name}: its run is gone from runs/; the value is the one that was written down"
        for trial in ledger.trials
        if trial.last is not None and not ledger.run(trial).path.is_dir()
    ]


def _unequal(rows: Sequence[Row], ledger: Ledger) -> list[str]:
    if ledger.is_complete or len({row.kimg for row in rows}) < 2:
        return []
    return ["not all trials are over: configurations stand by how far they came, and compare only where that is equal"]


def _tie(first: Row, second: Row) -> list[str]:
    """A line if the first place is not surely the first's, by Student's t at 95 %.

    Seed by seed: runs of one seed have much in common.
    """
    from scipy.stats import t

    if len(first.values) < 2:
        return ["one seed each: how far the first and the second are apart by chance is not known (seeds: 3)"]
    differences = np.subtract(first.values, second.values)
    stderr = float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
    needed = float(t.ppf(0.975, len(differences) - 1))  # 12.7 with two seeds
    if abs(differences.mean()) > needed * stderr:
        return []
    mean, seeds = abs(differences.mean()), len(differences)
    apart = f"the first two differ by {mean:.2g}, seed by seed, and {needed * stderr:.2g} would be needed"
    return [f"{apart} to rule out chance with {seeds} seeds (Student's t, 95 %): chance, perhaps"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
