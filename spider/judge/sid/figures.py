"""Two figures of a neighbour search.

curves.png     signed distance against the radius of the cube, a panel per order, a line per source with its 95 % band
heatmap.png    sources against measures, each measure coloured from its nearest to its farthest, the picks framed
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spider.files import save_figure
from spider.judge.sid.cube import Floats
from spider.judge.sid.curve import POINTS, SidCurve
from spider.judge.sid.selection import SURE

# Okabe and Ito's colours, which stay apart for colour-blind eyes; line styles tell apart what comes after them.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_PANELS_ACROSS = 3
_CAPTION_PER_INCH = 17  # letters of the caption's size
_PALEST = 0.1  # of a heatmap's colours, so that the nearest is told from a blank


def draw_curves(
    path: Path,
    target: str,
    curves: Mapping[str, Sequence[SidCurve]],
    picks: Sequence[Collection[str]],
    note: str = "",
) -> None:
    """One panel for each order; `curves` has the sources in the order in which they are listed.

    Args:
        path: the PNG to write.
        target: the target's name.
        curves: for each source, a curve per order.
        picks: for each order, sources drawn with thicker lines.
        note: how the numbers were made, below the title.
    """
    orders = len(next(iter(curves.values())))
    across = min(orders, _PANELS_ACROSS)
    down = -(-orders // across)
    figure = Figure(figsize=(1.5 + 5.2 * across, 0.4 + 4.2 * down), layout="constrained", dpi=130)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[orders:]:
        axes.set_axis_off()
    for order, axes in enumerate(panels[:orders]):
        styles = cycle((colour, style) for style in _STYLES for colour in _COLOURS)
        for (source, of_source), (colour, style) in zip(curves.items(), styles, strict=False):
            _draw_curve(axes, source, of_source[order], colour, style, picked=source in picks[order])
        axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_xlabel(f"side of the cube around {target}, in its standard deviations")
        axes.set_ylabel(f"SID of order {next(iter(curves.values()))[order].kernel.label}, sum over {POINTS} points")
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
        axes.legend(title="source, and its CSID", frameon=False, fontsize=9)
    figure.suptitle(f"Signed distance to {target}" + (f"\n{note}" if note else ""), fontsize=11)
    save_figure(figure, path)


def _draw_curve(axes: Axes, source: str, curve: SidCurve, colour: str, style: str, *, picked: bool) -> None:
    stderr = curve.csid_stderr
    error = "" if stderr is None else f" ± {short(stderr, stderr)}"
    label = f"{source}  {short(curve.csid, stderr)}{error}" + ("  ◂ pick" if picked else "")
    axes.plot(curve.radii, curve.values, style, color=colour, linewidth=2.2 if picked else 1.4, label=label)
    if curve.stderr is not None:
        low, high = (curve.values + sign * SURE * curve.stderr for sign in (-1, 1))
        axes.fill_between(curve.radii, low, high, color=colour, alpha=0.2, linewidth=0)


def draw_heatmap(
    path: Path,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    framed: Collection[tuple[int, int]] = (),
    screened: Collection[tuple[int, int]] = (),
    dropped: Collection[tuple[int, int]] = (),
    *,
    one_scale: bool = False,
) -> None:
    """Numbers as colours from the nearest to the farthest, and below them what the colours and marks that it has mean.

    Args:
        path: the PNG to write.
        title: what it shows.
        rows: names, such as sources.
        columns: names, such as measures or targets.
        values: a number for each row and column; None is left blank.
        framed: (row, column) of the cells to frame.
        screened: of those whose number is only an estimate from moments.
        dropped: of those that the rule drops, to hatch.
        one_scale: one scale for all, so that equal numbers have equal colours; else each column has its own.
    """
    numbers = np.array([[np.nan if value is None else value for value in row] for row in values], dtype=float)
    shades = heatmap_shades(numbers.ravel()[:, None]).reshape(numbers.shape) if one_scale else heatmap_shades(numbers)
    longest = max(map(len, rows))
    size = (1.2 + 0.09 * longest + 1.25 * len(columns), 1.6 + 0.42 * len(rows))
    figure = Figure(figsize=size, layout="constrained", dpi=130)
    axes = figure.add_subplot()
    axes.imshow(shades, cmap="PuOr_r", vmin=-1.3, vmax=1.3, aspect="auto")
    for (i, j), number in np.ndenumerate(numbers):
        if not np.isnan(number):
            ink = "white" if abs(shades[i, j]) > 0.8 else "black"
            text = f"({short(number)})" if (i, j) in screened else short(number)
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=ink)
    for i, j in framed:
        axes.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor="black", linewidth=2))
    for i, j in dropped:
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="0.45", hatch="//", linewidth=0))
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11)
    caption = f"colour: from the nearest (pale) to the farthest (dark) of {'all cells' if one_scale else 'each column'}"
    caption += "; purple: below 0, less diverse" if (numbers < 0).any() else ""
    caption += "; framed: picks" if framed else ""
    caption += "; hatched: dropped by the rule" if dropped else ""
    caption += "; in brackets: only screened" if screened else ""
    figure.supxlabel(textwrap.fill(caption, int(size[0] * _CAPTION_PER_INCH)), fontsize=8, color="0.3")
    save_figure(figure, path)


def heatmap_shades(numbers: Floats) -> Floats:
    """Colours of distances, -1 to 1: in each column the nearest is pale and the farthest is dark, however close.

    Args:
        numbers: float64 [R, C]; NaN has no colour.

    Returns:
        [R, C], with the signs of `numbers`; each sign has a scale of its own, from 0.1 at its smallest magnitude to 1
        at its largest; 0.1 alone where all its numbers are the same.
    """
    shades = np.full(numbers.shape, np.nan)
    for sign, side in ((1, numbers >= 0), (-1, numbers < 0)):
        for j in range(numbers.shape[1]):
            far = np.abs(numbers[side[:, j], j])
            if far.size:
                span = far.max() - far.min()
                shades[side[:, j], j] = sign * (_PALEST + (1 - _PALEST) * (far - far.min()) / (span or 1))
    return shades


def short(number: float, stderr: float | None = None) -> str:
    """Four digits, or as many as the standard error leaves; large numbers without an exponent."""
    if stderr is not None and stderr > 0:
        return f"{number:,.{max(0, 1 - math.floor(math.log10(stderr)))}f}"
    if number == 0:
        return "0"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:#.4g}".removesuffix(".")
