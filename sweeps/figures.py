"""Two figures of a sweep.

parallel.png    an upright scale for every axis of the space and one for the metric; a line for every configuration,
                coloured by its place, the best one thick, what a scheduler stopped dotted, what was not finite grey
outcome.png     what trainings on each source came to against its distance, a panel per kernel order
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator

from spider.files import save_figure
from spider.judge.sid.rules import PAPER
from spider.judge.sid.selection import SURE
from sweeps.space import Axis

if TYPE_CHECKING:
    from sweeps.neighbor_outcome import NeighborOutcome
    from sweeps.report import Row, SweepReport

_LOG_ABOVE = 10.0  # the largest value over the smallest, above which a scale is logarithmic
_BAND = 0.32  # of the room between two named values, over which lines through one of them are spread
_LETTERS = 18  # of a name beside a scale
_GREY = "0.65"


@dataclass(frozen=True)
class _Scale:
    """An upright scale: where its values stand between 0 and 1.

    Attributes:
        title: below it.
        ticks: (height, text).
        heights: of the rows, in their order.
    """

    title: str
    ticks: list[tuple[float, str]]
    heights: list[float | None]


def draw_parallel(report: SweepReport, path: Path) -> None:
    """Write parallel.png."""
    rows = report.rows
    best_first = -1 if report.measure.better == "lower" else 1
    scales = [*(_axis_scale(axis, rows, best_first) for axis in report.axes), _metric_scale(report)]
    figure = Figure(figsize=(2.6 + 2.1 * len(scales), 5.2), layout="constrained", dpi=120)
    axes = figure.subplots()
    _draw_lines(axes, rows, scales)
    for x, scale in enumerate(scales):
        _draw_scale(axes, x, scale)
    axes.set_xlim(-0.35, len(scales) - 1 + 0.5)
    axes.set_ylim(-0.15, 1.03)
    axes.set_axis_off()
    figure.legend(handles=_legend(rows), loc="outside lower center", ncols=4, frameon=False)
    kimg = {row.kimg for row in rows if row.mean is not None}
    where = f"at {kimg.pop():g} kimg" if len(kimg) == 1 else "where each configuration came to"
    seeds = f", mean of {report.seeds} seeds" if report.seeds > 1 else ""
    about = f"{report.label} {where}{seeds}; {report.measure.better} is better"
    figure.suptitle(f"{about}\nlines through one listed value lie side by side", fontsize=10)
    save_figure(figure, path)


def draw_outcome(outcome: NeighborOutcome, path: Path) -> None:
    """Write outcome.png."""
    panels = len(outcome.rankings)
    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(1.0 + 4.8 * columns, 1.0 + 3.9 * rows), layout="constrained", dpi=120)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for number, axes in enumerate(grid[:panels]):
        _draw_order(axes, outcome, number)
    for axes in grid[panels:]:
        axes.set_axis_off()
    figure.supylabel(f"{outcome.label} at {outcome.kimg:g} kimg ({outcome.better} is better)", fontsize=10)
    figure.suptitle(
        f"Does a near neighbour make a better GAN? Distances under {outcome.rankings[0].embedding}", fontsize=11
    )
    handles = [
        Line2D([], [], marker="o", linestyle="", color="#0072B2", label="picked by this order"),
        Line2D([], [], marker="o", linestyle="", color="#0072B2", markerfacecolor="white", label="not picked by it"),
        Line2D([], [], color="#0072B2", linewidth=1, label="across: 95 % of CSID; upright: lowest to highest seed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_order(axes: Axes, outcome: NeighborOutcome, number: int) -> None:
    ranking, agreement = outcome.rankings[number], outcome.agreements[number]
    place = {each.source: each for each in ranking.sources}
    for trained in outcome.trained:
        at = place[trained.source]
        low, high = min(trained.values), max(trained.values)
        axes.errorbar(
            [at.csid],
            [trained.mean],
            xerr=None if at.stderr is None else [[SURE * at.stderr], [SURE * at.stderr]],
            yerr=[[trained.mean - low], [high - trained.mean]] if len(trained.values) > 1 else None,
            marker="o",
            color="#0072B2",
            markerfacecolor="#0072B2" if at.picked else "white",
            elinewidth=1,
            capsize=2,
        )
        axes.annotate(  # slanted, above everything of its own: names of near neighbours lie side by side
            _short(trained.source),
            (at.csid, high),
            xytext=(0, 4),
            textcoords="offset points",
            fontsize=9,
            rotation=70,
            rotation_mode="anchor",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],  # also where it lies over another's bar
        )
    everywhere = [place[trained.source].csid for trained in outcome.trained]
    if min(everywhere) < max(everywhere) - min(everywhere):  # otherwise all are on one side of 0, and far from it
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.margins(0.18, 0.3)
    axes.set_xlabel(f"CSID of order {ranking.order}: farther and more diverse to the right")
    axes.set_title(agreement.words if ranking.rule == PAPER else f"{ranking.rule}: {agreement.words}", fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lines(axes: Axes, rows: Sequence[Row], scales: Sequence[_Scale]) -> None:
    """The worst first, so that the best lie on top."""
    colours = matplotlib.colormaps["viridis"]
    alpha = 0.9 if len(rows) <= 40 else 0.5
    for rank in reversed(range(len(rows))):
        heights = [scale.heights[rank] for scale in scales]
        drawn = [(x, height) for x, height in enumerate(heights) if height is not None]
        style: dict[str, Any] = {"color": _GREY, "linestyle": "--", "linewidth": 1.0}
        if heights[-1] is not None:
            part = 1 - rank / max(1, len(rows) - 1)
            style = {"color": colours(0.9 * (1 - part)), "linestyle": "-", "linewidth": 3.2 if rank == 0 else 1.4}
            if not _is_at_the_length(rows[rank], rows):
                style |= {"linestyle": ":", "linewidth": 1.6}
        axes.plot([x for x, _ in drawn], [y for _, y in drawn], alpha=alpha, solid_capstyle="round", **style)


def _draw_scale(axes: Axes, x: int, scale: _Scale) -> None:
    axes.plot([x, x], [0, 1], color="black", linewidth=1.0, zorder=3)
    for height, text in scale.ticks:
        axes.plot([x - 0.02, x + 0.02], [height, height], color="black", linewidth=1.0, zorder=3)
        axes.text(
            x + 0.04,
            height,
            text,
            va="center",
            fontsize=9,
            zorder=4,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],  # readable, and cuts no line
        )
    axes.text(x, -0.04, scale.title, ha="center", va="top", fontsize=10)


def _legend(rows: Sequence[Row]) -> list[Line2D]:
    colours = matplotlib.colormaps["viridis"]
    entries = [Line2D([], [], color=colours(0.0), linewidth=3.2, label="best")]
    if any(row.mean is not None for row in rows[1:]):
        if len(rows) > 2:
            entries.append(Line2D([], [], color=colours(0.45), linewidth=1.4, label="between, by rank"))
        entries.append(Line2D([], [], color=colours(0.9), linewidth=1.4, label="worst"))
    if any(row.mean is not None and not _is_at_the_length(row, rows) for row in rows):
        entries.append(Line2D([], [], color=colours(0.6), linestyle=":", linewidth=1.6, label="ended earlier"))
    if any(row.mean is None for row in rows):
        entries.append(Line2D([], [], color=_GREY, linestyle="--", linewidth=1.0, label="no value"))
    return entries


def _is_at_the_length(row: Row, rows: Sequence[Row]) -> bool:
    return row.kimg >= max(each.kimg for each in rows)


def _axis_scale(axis: Axis, rows: Sequence[Row], best_first: int) -> _Scale:
    if axis.values:
        return _listed_scale(axis, rows, best_first)
    place = _placing(axis.low, axis.high, axis.log)
    return _Scale(
        _title(axis.key, axis.log),
        [(place(at), text) for at, text in _ticks(axis.low, axis.high, axis.log)],
        [place(row.configuration.point[axis.key]) for row in rows],
    )


def _listed_scale(axis: Axis, rows: Sequence[Row], best_first: int) -> _Scale:
    """Numbers where they belong and names at equal distances, the lines through each side by side.

    Among them the best is where the metric has its best, so that as few lines as may be cross: on top if `best_first`
    is 1, at the bottom if it is -1.
    """
    values, log = list(axis.values), False
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        values = list(range(len(values)))
    elif min(values) > 0 and max(values) / min(values) >= _LOG_ABOVE:
        log = True
    place = _placing(min(values), max(values), log)
    raw = [place(value) for value in values]
    gap = min((b - a for a, b in itertools.pairwise(sorted(raw))), default=1.0)
    band = _BAND * min(gap, 0.5)
    at = {label: band / 2 + (1 - band) * height for label, height in zip(axis.labels, raw, strict=True)}
    heights: list[float | None] = []
    for rank, row in enumerate(rows):
        through = [i for i, other in enumerate(rows) if other.labels[axis.key] == row.labels[axis.key]]
        part = 0.5 - through.index(rank) / (len(through) - 1) if len(through) > 1 else 0.0
        heights.append(at[row.labels[axis.key]] + best_first * part * band)
    return _Scale(_title(axis.key, log), [(height, _short(label)) for label, height in at.items()], heights)


def _metric_scale(report: SweepReport) -> _Scale:
    means = [row.mean for row in report.rows]
    known = [mean for mean in means if mean is not None]
    low, high = min(known), max(known)
    log = low > 0 and high / low >= _LOG_ABOVE
    place = _placing(low, high, log)
    ticks = [(place(at), text) for at, text in _ticks(low, high, log)]
    return _Scale(_title(report.label, log), ticks, [None if mean is None else place(mean) for mean in means])


def _title(name: str, log: bool) -> str:
    return f"{name}\n(log scale)" if log else name


def _placing(low: float, high: float, log: bool) -> Any:
    """Height of a value; one that has no other stands in the middle."""
    bottom, top = (math.log(low), math.log(high)) if log else (low, high)
    return lambda value: 0.5 if top == bottom else ((math.log(value) if log else value) - bottom) / (top - bottom)


def _ticks(low: float, high: float, log: bool) -> list[tuple[float, str]]:
    """Round values between the bounds, and the bounds where there are fewer than two."""
    if low == high:
        return [(low, f"{low:.4g}")]
    locator = LogLocator(subs=(1.0, 2.0, 5.0)) if log else MaxNLocator(6)
    found = [float(at) for at in np.asarray(locator.tick_values(low, high)) if low <= at <= high]
    if len(found) > 8:
        found = [at for at in found if math.log10(at) % 1 < 1e-9 or math.log10(at) % 1 > 1 - 1e-9]
    return [(at, f"{at:.4g}") for at in (found if len(found) > 1 else [low, high])]


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
