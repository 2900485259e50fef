"""Runs side by side: which keys differ, how large they are, and how their metrics went with the images shown.

Values are compared at equal kimg, because images are the clock; equal up to one iteration, because what is due at
5 kimg comes at 5.008 with a batch of 16, and at 5.024 with 32. Metrics come from the runs' own evaluations
(RUN/evaluations); where two runs were not measured by the same protocol against the same reference, it says so. Runs
that differ in nothing but seed and length are one experiment: its values are the mean, and the lowest and the highest.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from spider.config.load import flatten
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.metrics.results import MetricResult, read_results
from spider.runs.directory import RunDirectory, images_of, no_run
from spider.runs.listing import describe_best, find_runs
from spider.runs.records import BestRecord, StartRecord
from spider.tables import aligned, setting
from untrusted.rows import Rows
from untrusted.terminal import one_line

T = TypeVar("T")

LOSSES = {
    "loss/d": "D's loss on pairs",
    "loss/d_real": "D's loss on real images",
    "loss/d_fake": "D's loss on samples",
    "loss/g": "G's loss",
}

_ROWS_PER_METRIC = 5

Curve = list[tuple[float, float]]  # (kimg, value), by kimg


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in nothing but seed and length; most often one run.

    Attributes:
        name: of the run below the folder of all runs, or what the names of its runs have in common.
        runs: which, as positions in `Comparison.runs`.
    """

    name: str
    runs: list[int]


@dataclass(frozen=True)
class Comparison:
    """What is different between runs.

    Attributes:
        runs: as they were named, or found below the folder that was.
        experiments: the same by what they are.
        differing: by key, the values that the runs have; None where a run's other choices have no such key.
        parameters: by network, how many parameters train; None for a run that never started.
        metrics: by label, the curve of every run; a run that was not measured has an empty one.
        losses: the same for the losses of metrics.jsonl.
        best: by run, {"checkpoint", "metric", "value"} or None.
        batch: the largest batch of these runs.
        warnings: what was left out, and why numbers may not be compared.
    """

    runs: list[str]
    experiments: list[Experiment]
    differing: dict[str, list[Any]]
    parameters: dict[str, list[int | None]]
    metrics: dict[str, list[Curve]]
    losses: dict[str, list[Curve]]
    best: list[BestRecord | None]
    batch: int
    warnings: list[str] = field(default_factory=list)

    def at_common_kimg(self, label: str) -> dict[float, list[float | None]]:
        """Values of a metric, or a loss, by kimg at which every run has one that has any; the others have None.

        Values less than an iteration apart stand in one row, under the lowest of their kimg.
        """
        return _at_common_kimg({**self.metrics, **self.losses}[label], self.batch)

    def table(self) -> str:
        """For a terminal: a column per experiment."""
        rows = [["", *(experiment.name for experiment in self.experiments)]]
        rows += self._rows({key: [setting(value) for value in values] for key, values in self.differing.items()})
        rows += self._rows({f"parameters of {name}": list(map(_count, n)) for name, n in self.parameters.items()})
        for label in self.metrics or self.losses:
            found = self.at_common_kimg(label)
            rows += [
                [
                    f"{label} at {kimg:g} kimg",
                    *(_mean_and_range([found[kimg][run] for run in each.runs]) for each in self.experiments),
                ]
                for kimg in _spread(found)
            ]
        rows.append(["best", *(self._best([self.best[run] for run in each.runs]) for each in self.experiments)])
        notes = [f"! {one_line(warning)}" for warning in self.warnings]
        if len(self.experiments) < len(self.runs):
            notes = ["several seeds: mean (lowest to highest)", *notes]
        return "\n".join([aligned(rows), *notes])

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "runs": self.runs,
            "experiments": [
                {"name": each.name, "runs": [self.runs[run] for run in each.runs]} for each in self.experiments
            ],
            "differing": self.differing,
            "parameters": self.parameters,
            "at_common_kimg": {
                label: [{"kimg": kimg, "values": values} for kimg, values in self.at_common_kimg(label).items()]
                for label in {**self.metrics, **self.losses}
            },
            "best": self.best,
            "warnings": self.warnings,
        }

    @staticmethod
    def _best(found: Sequence[BestRecord | None]) -> str:
        if len(found) == 1:
            return describe_best(found[0])
        known = [best for best in found if best is not None]
        metrics = {best["metric"] for best in known}
        if len(metrics) != 1:
            return "-"
        when = sorted({images_of(best["checkpoint"]) / 1000 for best in known})
        kimg = f"{when[0]:g}" if len(when) == 1 else f"{when[0]:g} to {when[-1]:g}"
        return f"{metrics.pop()} {_mean_and_range([best['value'] for best in known])} at {kimg} kimg"

    def _rows(self, values: dict[str, list[str]]) -> list[list[str]]:
        """A row per entry, from the values of runs: those of one experiment beside each other, each once."""
        return [
            [name, *(", ".join(dict.fromkeys(each[run] for run in experiment.runs)) for experiment in self.experiments)]
            for name, each in values.items()
        ]


def compare_runs(runs: Sequence[str | Path]) -> Comparison:
    """Compare two runs or more.

    Args:
        runs: their folders; or one folder, for all runs in it and below. What holds no run among several, as
            `runs/*` may name it, is left out, and `warnings` says so. So is what cannot be read of a run, or the run
            if that is its configuration.

    Raises:
        SpiderUsageError: fewer than two runs, or a name under which there is nothing.
    """
    directories, left_out = _open([str(run) for run in runs])
    if len(directories) < 2:
        raise SpiderUsageError("; ".join(["a comparison takes two runs or more", *left_out]))
    names = [str(directory.path) for directory in directories]
    evaluations = [_evaluations(directory, left_out) for directory in directories]
    rows = [_rows(directory, left_out) for directory in directories]
    parameters = [_parameters(directory, left_out) for directory in directories]
    best = [_readable(directory.best, None, left_out) for directory in directories]
    return Comparison(
        runs=names,
        experiments=_experiments(names, directories),
        differing=_differing(directories),
        parameters={name: [each.get(name) for each in parameters] for name in _keys(parameters)},
        metrics={label: [each.get(label, []) for each in _curves(evaluations)] for label in _labels(evaluations)},
        losses={
            label: [[(row["kimg"], row[label]) for row in each if row.get(label) is not None] for each in rows]
            for label in LOSSES
        },
        best=best,
        batch=max(directory.config().batch for directory in directories),
        warnings=[*left_out, *_incomparable(names, evaluations)],
    )


def _open(names: Sequence[str]) -> tuple[list[RunDirectory], list[str]]:
    """The runs of that name, and a line for each other name."""
    for name in names:
        if not Path(name).exists():
            hint = "; a comparison is of whole runs, without @" if "@" in name else ""
            raise SpiderUsageError(f"{no_run(name)}{hint}")
    if len(names) == 1 and Path(names[0]).is_dir():
        directories = list(find_runs(Path(names[0])))
        left_out = [] if directories else [no_run(names[0])]
    else:
        directories = [RunDirectory(Path(name)) for name in names]
        left_out = [f"left out: {no_run(each.path)}" for each in directories if not each.exists]
    found = [each for each in directories if each.exists]
    return [each for each in found if _readable(each.config, None, left_out) is not None], left_out


def _readable(read: Callable[[], T], otherwise: T, left_out: list[str]) -> T:
    """What `read` gives; if a file is damaged, `otherwise`, and a line that says so."""
    try:
        return read()
    except (SpiderError, OSError) as error:
        left_out.append(f"left out: {error}")
        return otherwise


def _experiments(names: Sequence[str], directories: Sequence[RunDirectory]) -> list[Experiment]:
    """Runs by configuration without seed and length; equal seeds are no several seeds, and stay apart."""
    alike: dict[str, list[int]] = {}
    seeds: dict[str, set[int]] = {}
    for run, directory in enumerate(directories):
        config = directory.config()
        key = json.dumps(flatten(config.model_copy(update={"seed": 0, "kimg": 0.0})))
        if config.seed in seeds.setdefault(key, set()):
            key += f" {run}"
        seeds.setdefault(key, set()).add(config.seed)
        alike.setdefault(key, []).append(run)
    alone = len(set(names)) == 1 or len({os.path.isabs(name) for name in names}) > 1
    folder = "" if alone else os.path.commonpath([os.path.dirname(name) for name in names])
    short = [os.path.relpath(name, folder) if folder else name for name in names]
    return [Experiment(_common_name([short[run] for run in runs]), runs) for runs in alike.values()]


def _common_name(names: Sequence[str]) -> str:
    """letters-0, letters-1: letters-*, 2 seeds."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(names)  # noqa: RUF071 (characters, not folders)
    end = os.path.commonprefix([name[len(start) :][::-1] for name in names])[::-1]  # noqa: RUF071
    return f"{start}*{end}, {len(names)} seeds"


def _differing(directories: Sequence[RunDirectory]) -> dict[str, list[Any]]:
    configs = [flatten(directory.config()) for directory in directories]
    values = {key: [config.get(key) for config in configs] for key in _keys(configs)}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each[1:])}


def _keys(mappings: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _parameters(directory: RunDirectory, left_out: list[str]) -> dict[str, int]:
    starts: list[StartRecord] = _readable(directory.starts, [], left_out)
    return starts[-1].get("parameters", {}) if starts else {}


def _rows(directory: RunDirectory, left_out: list[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without those that are damaged."""
    found: Rows[dict[str, Any]] = _readable(directory.rows, Rows(directory.metrics_file, []), left_out)
    left_out += [] if found.warning is None else [found.warning]
    return found.rows


_Evaluations = dict[float, list[MetricResult]]  # by kimg


def _evaluations(directory: RunDirectory, left_out: list[str]) -> _Evaluations:
    files = directory.evaluation_files()
    found: _Evaluations = {}
    for images, file in files.items():
        found[images / 1000] = _readable(partial(read_results, file), [], left_out)
    return {kimg: results for kimg, results in found.items() if results}


def _labels(evaluations: Sequence[_Evaluations]) -> list[str]:
    return list(dict.fromkeys(r.label for each in evaluations for results in each.values() for r in results))


def _curves(evaluations: Sequence[_Evaluations]) -> list[dict[str, Curve]]:
    curves: list[dict[str, Curve]] = []
    for each in evaluations:
        curves.append({})
        for kimg, results in each.items():
            for result in results:
                if result.value is not None:
                    curves[-1].setdefault(result.label, []).append((kimg, result.value))
    return curves


def _incomparable(names: Sequence[str], evaluations: Sequence[_Evaluations]) -> list[str]:
    """A line for each label that two runs measured in different ways, naming what differs."""
    warnings = []
    for label in _labels(evaluations):
        ways = {
            name: result.way()
            for name, each in zip(names, evaluations, strict=True)
            for results in each.values()
            for result in results
            if result.label == label
        }
        first, *others = ways.values()
        keys = dict.fromkeys(key for way in ways.values() for key in way)
        different = [key for key in keys if any(first.get(key) != other.get(key) for other in others)]
        if different:
            warnings.append(f"{label}: the runs were measured with different {', '.join(different)}")
    return warnings


def _at_common_kimg(curves: Sequence[Curve], batch: int) -> dict[float, list[float | None]]:
    measured = [curve for curve in curves if curve]
    found: dict[float, list[float | None]] = {}
    for at, _ in measured[0] if measured else []:
        points = [_nearest(curve, at) for curve in curves]
        known = [point[0] for point in points if point is not None]
        if all(round(1000 * abs(kimg - at)) < batch for kimg in known):
            found[min(known)] = [None if point is None else point[1] for point in points]
    return found


def _nearest(curve: Curve, kimg: float) -> tuple[float, float] | None:
    after = bisect_left(curve, (kimg,))
    return min(curve[max(0, after - 1) : after + 1], key=lambda point: abs(point[0] - kimg), default=None)


def _spread(found: dict[float, list[float | None]]) -> list[float]:
    """A few of the kimg, evenly spread, the last among them."""
    every = list(found)
    if len(every) <= _ROWS_PER_METRIC:
        return every
    return [every[round(i * (len(every) - 1) / (_ROWS_PER_METRIC - 1))] for i in range(_ROWS_PER_METRIC)]


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _mean_and_range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{sum(known) / len(known):.4g}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.4g} to {max(known):.4g})"
