"""The figure of `spider compare`: every metric against the images shown; the losses where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from spider.errors import SpiderUsageError
from spider.files import save_figure
from spider.judge.compare import LOSSES, Comparison, Curve

# Okabe and Ito's palette, without yellow, which is too light on white; told apart by shape as well
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLES = ("-", "--", "-.", ":")
_ENDINGS = ("", ".png", ".pdf", ".svg")
_MANY = 50  # points on a line, above which they bear no marks
_KEY_IN, _LETTER_IN = 0.7, 0.085  # inches that an entry of the legend takes, besides and for its name
_LOG_ABOVE = 10.0  # the largest value over the smallest, above which the scale is logarithmic


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Write a PNG: a panel per metric, a line per experiment, with the range over its seeds.

    Args:
        path: ends in .png, .pdf or .svg; without an ending it is a PNG.

    Raises SpiderUsageError if no run has anything to draw, or for another ending.
    """
    if Path(path).suffix not in _ENDINGS:
        raise SpiderUsageError(f"--out {path}: known endings are .png, .pdf and .svg")
    metrics, losses = comparison.metrics, {LOSSES[name]: curves for name, curves in comparison.losses.items()}
    panels = {
        label: curves
        for label, curves in (metrics or losses).items()
        if any(curves[run] for experiment in comparison.experiments for run in experiment.runs)
    }
    if not panels:
        raise SpiderUsageError("nothing to draw: no run has an evaluation or a row in metrics.jsonl")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.8, 3.4 * rows + 1.1), layout="constrained", dpi=120)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (label, curves) in zip(grid.flat, panels.items(), strict=False):
        draw_curves(axes, label, {each.name: [curves[run] for run in each.runs] for each in comparison.experiments})
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    shown = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    side_by_side = int(figure.get_figwidth() / (_KEY_IN + _LETTER_IN * max(map(len, shown))))
    ncols = max(1, min(len(shown), side_by_side))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=ncols, frameon=False)
    about = "metrics of the averaged generator" if metrics else "losses, which compare nothing across objectives"
    if any(len(experiment.runs) > 1 for experiment in comparison.experiments):
        about += "; several seeds: mean, lowest to highest; thin: each seed, where not all have the same kimg"
    if comparison.warnings:
        about += "\nnot all of these numbers may be compared: see the table"
    figure.suptitle(about, fontsize=10)
    save_figure(figure, Path(path))


def draw_curves(axes: Axes, label: str, lines: Mapping[str, Sequence[Curve]], *, logarithmic: bool = True) -> None:
    """A metric against the images shown: a line for each name, the mean of its curves, with their range as a band.

    The mean and the band go where all curves of a name have a point. A curve that has others, as a longer run has, is
    drawn as well, thin and whole.

    The scale is logarithmic where values span much, unless it may not be.
    """
    for number, (name, curves) in enumerate(lines.items()):
        there = [curve for curve in curves if curve]
        if not there:
            continue
        points = _points(there)
        kimg = [at for at, _ in points]
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
        for curve in there:
            if len(curve) > len(points):
                thin = marker if len(curve) <= _MANY else None
                axes.plot(*zip(*curve, strict=True), style, color=colour, marker=thin, markersize=2, lw=0.8, alpha=0.6)
        axes.plot(
            kimg,
            [sum(values) / len(values) for _, values in points],
            color=colour,
            linestyle=style,
            marker=marker if len(points) <= _MANY else None,
            markersize=4,
            linewidth=1.5,
            label=name,
        )
        if len(there) > 1:
            low, high = [min(values) for _, values in points], [max(values) for _, values in points]
            axes.fill_between(kimg, low, high, color=colour, alpha=0.15, linewidth=0)
    drawn = [value for curves in lines.values() for curve in curves for _, value in curve]
    if logarithmic and min(drawn) > 0 and max(drawn) / min(drawn) > _LOG_ABOVE:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(label, fontsize=10)
    axes.set_xlabel("images shown (kimg)")
    axes.set_ylabel(f"{label} (log scale)" if axes.get_yscale() == "log" else label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _points(curves: Sequence[Curve]) -> list[tuple[float, list[float]]]:
    """(kimg, the values of all curves) at every kimg where all have one."""
    values = [dict(curve) for curve in curves]
    common = set.intersection(*(set(each) for each in values)) if values else set()
    return [(kimg, [each[kimg] for each in values]) for kimg in sorted(common)]
