"""Runs side by side: which keys differ, how large they are, and how their metrics went with the images shown.

Values are compared at equal kimg, because images are the clock. Metrics come from the runs' own evaluations
(RUN/evaluations); where two runs were not measured by the same protocol against the same reference, it says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spider.config.load import flatten
from spider.errors import SpiderUsageError
from spider.metrics.results import MetricResult, read_results
from spider.run import RunDirectory, images_of, no_run
from spider.runs import describe_best
from spider.tables import aligned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS_PER_METRIC = 5
_LOSSES = {"loss/d_real": "D's loss on real images", "loss/d_fake": "D's loss on samples", "loss/g": "G's loss"}
# Okabe and Ito's palette, without yellow, which is too light on white; told apart by shape as well
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLES = ("-", "--", "-.", ":")

Curve = list[tuple[float, float]]  # (kimg, value), by kimg


@dataclass(frozen=True)
class Comparison:
    """What is different between runs.

    Attributes:
        runs: as they were named.
        differing: by key, the values that the runs have; None where a run's other choices have no such key.
        parameters: by network, how many parameters train; None for a run that never started.
        metrics: by label, the curve of every run; a run that was not measured has an empty one.
        losses: the same for the losses of metrics.jsonl.
        best: by run, {"checkpoint", "metric", "value"} or None.
        warnings: why numbers may not be compared.
    """

    runs: list[str]
    differing: dict[str, list[Any]]
    parameters: dict[str, list[int | None]]
    metrics: dict[str, list[Curve]]
    losses: dict[str, list[Curve]]
    best: list[dict[str, Any] | None]
    warnings: list[str] = field(default_factory=list)

    def at_common_kimg(self, label: str) -> dict[float, list[float]]:
        """Values of a metric, or a loss, by kimg at which every run has one."""
        curves = [dict(curve) for curve in {**self.metrics, **self.losses}[label]]
        common = set.intersection(*(set(curve) for curve in curves))
        return {kimg: [curve[kimg] for curve in curves] for kimg in sorted(common)}

    def table(self) -> str:
        """For a terminal: a column per run."""
        rows = [["", *self.runs]]
        rows += [[key, *map(_shown, values)] for key, values in self.differing.items()]
        rows += [[f"parameters of {name}", *map(_count, values)] for name, values in self.parameters.items()]
        for label in self.metrics or self.losses:
            found = self.at_common_kimg(label)
            rows += [
                [f"{label} at {kimg:g} kimg", *(f"{value:.5g}" for value in found[kimg])] for kimg in _spread(found)
            ]
        rows.append(["best", *map(describe_best, self.best)])
        notes = [f"! {warning}" for warning in self.warnings]
        return "\n".join([aligned(rows), *notes])

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "runs": self.runs,
            "differing": self.differing,
            "parameters": self.parameters,
            "at_common_kimg": {
                label: [{"kimg": kimg, "values": values} for kimg, values in self.at_common_kimg(label).items()]
                for label in {**self.metrics, **self.losses}
            },
            "best": self.best,
            "warnings": self.warnings,
        }

    def draw(self, path: str | Path) -> None:
        """A figure: every metric against kimg; the losses where nothing was measured."""
        from matplotlib.figure import Figure

        panels = {label: curves for label, curves in (self.metrics or self.losses).items() if any(curves)}
        if not panels:
            raise SpiderUsageError("nothing to draw: none of the runs has an evaluation or a row in metrics.jsonl")
        columns = min(len(panels), 3)
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(4.6 * columns + 0.4, 3.4 * rows + 0.7), layout="constrained", dpi=120)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (label, curves) in zip(grid.flat, panels.items(), strict=False):
            self._draw_panel(axes, label, curves)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(self.runs), 3), frameon=False)
        if self.warnings:
            figure.suptitle("not all of these numbers may be compared: see the table", fontsize=9)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)

    def _draw_panel(self, axes: Axes, label: str, curves: list[Curve]) -> None:
        for number, (run, curve) in enumerate(zip(self.runs, curves, strict=True)):
            axes.plot(
                [kimg for kimg, _ in curve],
                [value for _, value in curve],
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=_STYLES[number // len(_COLOURS) % len(_STYLES)],
                marker=_MARKERS[number % len(_MARKERS)] if len(curve) <= 50 else None,
                markersize=4,
                linewidth=1.5,
                label=run,
            )
        axes.set_xlabel("images shown (kimg)")
        axes.set_ylabel(_LOSSES.get(label, label))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


def compare_runs(runs: Sequence[str | Path]) -> Comparison:
    """Compare two runs or more.

    Raises:
        SpiderUsageError: fewer than two, or a name that is not a run's.
        SpiderError: a run's configuration or evaluation cannot be read.
    """
    names = [str(run) for run in runs]
    if len(names) < 2:
        raise SpiderUsageError("a comparison takes two runs or more")
    directories = [_open(name) for name in names]
    evaluations = [_evaluations(directory) for directory in directories]
    rows = [_rows(directory) for directory in directories]
    parameters = [_parameters(directory) for directory in directories]
    return Comparison(
        runs=names,
        differing=_differing(directories),
        parameters={name: [each.get(name) for each in parameters] for name in _keys(parameters)},
        metrics={label: [each.get(label, []) for each in _curves(evaluations)] for label in _labels(evaluations)},
        losses={
            label: [[(row["kimg"], row[label]) for row in each if row.get(label) is not None] for each in rows]
            for label in _LOSSES
        },
        best=[directory.best() for directory in directories],
        warnings=_incomparable(names, evaluations),
    )


def _open(name: str) -> RunDirectory:
    directory = RunDirectory(Path(name))
    if not directory.exists:
        hint = "; a comparison is of whole runs, without @" if "@" in name else ""
        raise SpiderUsageError(f"{no_run(name)}{hint}")
    return directory


def _differing(directories: Sequence[RunDirectory]) -> dict[str, list[Any]]:
    configs = [flatten(directory.config()) for directory in directories]
    values = {key: [config.get(key) for config in configs] for key in _keys(configs)}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each[1:])}


def _keys(mappings: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _parameters(directory: RunDirectory) -> dict[str, int]:
    file = directory.path / "environment.json"
    starts = json.loads(file.read_text("utf-8"))["starts"] if file.is_file() else []
    return dict(starts[-1]["parameters"]) if starts else {}


def _rows(directory: RunDirectory) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without one that a kill cut short."""
    if not directory.metrics_file.is_file():
        return []
    rows = []
    for line in directory.metrics_file.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


_Evaluations = dict[float, list[MetricResult]]  # by kimg


def _evaluations(directory: RunDirectory) -> _Evaluations:
    files = sorted(directory.evaluations.glob("[0-9]*-kimg.json"))
    found = {images_of(file.name.removesuffix(".json")) / 1000: read_results(file) for file in files}
    return dict(sorted(found.items()))


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
            name: {
                **{key: value for key, value in result.protocol.items() if key != "seed"},
                "reference": result.provenance["reference"]["fingerprint"],
                "samples": result.provenance["samples"]["count"],
            }
            for name, each in zip(names, evaluations, strict=True)
            for results in each.values()
            for result in results
            if result.label == label
        }
        first, *others = ways.values()
        different = [key for key in first if any(first[key] != other.get(key) for other in others)]
        if different:
            warnings.append(f"{label}: the runs were measured with different {', '.join(different)}")
    return warnings


def _spread(found: dict[float, list[float]]) -> list[float]:
    """A few of the kimg, evenly spread, the last among them."""
    every = list(found)
    if len(every) <= _ROWS_PER_METRIC:
        return every
    return [every[round(i * (len(every) - 1) / (_ROWS_PER_METRIC - 1))] for i in range(_ROWS_PER_METRIC)]


def _shown(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
