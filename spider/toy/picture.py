"""The movie of a toy: a panel for each variant, and below them what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shards.points import Modes
from spider.files import save_figure
from spider.judge.compare_figure import draw_curves
from spider.pictures.movies import Frame, write_movie
from spider.toy.score import Points

if TYPE_CHECKING:
    from spider.toy.lab import Variant

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_ARROWS = 4  # of so many places of the field one has an arrow


@dataclass(frozen=True)
class Field:
    """D on a square grid around the centre.

    Attributes:
        reach: from the centre to the edge.
        logits: [S, S], by rows of equal y.
        slopes: [S, S, 2], of the logits.
    """

    reach: float
    logits: NDArray[np.float64]
    slopes: NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What a frame shows of a variant."""

    kimg: float
    generated: Points
    real: Points
    field: Field


def draw(variants: Sequence[Variant], law: Modes | None, movie: Path, last: Path, drawn: Callable[[], object]) -> None:
    """Write the movie, and its last frame as an image. `drawn` is called for each frame."""
    count = min(len(each.looks) for each in variants)
    write_movie(movie, _frames(variants, law, count, drawn))
    save_figure(_figure(variants, law, count - 1, dpi=130), last)


def draw_seeds(variants: Sequence[Variant], law: Modes | None, file: Path) -> None:
    """Write how each measure went under all seeds: above with the points shown, below at the end."""
    measures = measures_of(variants, law)
    figure = Figure(figsize=(3.3 * len(measures), 6.4), layout="constrained", dpi=120)
    grid = figure.subplots(2, len(measures), squeeze=False)
    by_name = named_alike(variants)
    for (above, below), (measure, label) in zip(grid.T, measures.items(), strict=True):
        curves = {name: [_points(each, measure) for each in same] for name, same in by_name.items()}
        draw_curves(above, label, curves, logarithmic=False)
        above.set_xlabel("points shown (kimg)")
        for place, (same, colour) in enumerate(zip(by_name.values(), _COLOURS, strict=False)):
            last = [value for each in same if (value := each.outcome(measure)) is not None]
            beside = place + np.linspace(-0.18, 0.18, len(last)) if len(last) > 1 else [place]
            below.plot(beside, last, "o", color=colour, alpha=0.7, markersize=5)
            if last:
                below.hlines(fmean(last), place - 0.3, place + 0.3, color=colour, linewidth=2)
        below.set_xticks(range(len(curves)), [str(number) for number in curves], fontsize=8)
        below.set_xlim(-0.5, len(curves) - 0.5)
        when = "mean of the second half" if measure == "optimality" else "at the end"
        below.set_ylabel(f"{label}\n{when}", fontsize=8)
        below.grid(axis="y", alpha=0.25)
        below.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(by_name), frameon=False, fontsize=9)
    save_figure(figure, file)


def named_alike(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """The seeds of each variant."""
    found: dict[str, list[Variant]] = {}
    for each in variants:
        found.setdefault(each.name, []).append(each)
    return found


def _points(variant: Variant, measure: str) -> list[tuple[float, float]]:
    return [(row["kimg"], row[measure]) for row in variant.rows if row.get(measure) is not None]


def measures_of(variants: Sequence[Variant], law: Modes | None) -> dict[str, str]:
    """What is drawn, and what it is called."""
    found = {"distance": "energy distance"}
    if law is not None:
        found = {"modes": f"modes covered (of {len(law.centres)})", "good": "share of points near a mode", **found}
    if any(each.rows[-1]["optimality"] is not None for each in variants):
        found["optimality"] = "optimality of the direction"
    return found


def _frames(variants: Sequence[Variant], law: Modes | None, count: int, drawn: Callable[[], object]) -> Iterator[Frame]:
    frame: Frame
    for number in range(count):
        canvas: Any = FigureCanvasAgg(_figure(variants, law, number, dpi=80))
        canvas.draw()
        frame = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        drawn()
        yield frame
    for _ in range(12):  # the end stands for a second
        yield frame


def _figure(variants: Sequence[Variant], law: Modes | None, number: int, dpi: int) -> Figure:
    wide = max(2, len(variants))
    figure = Figure(figsize=(3.6 * wide, 5.6), layout="constrained", dpi=dpi)
    top, bottom = cast(Any, figure.subfigures(2, 1, height_ratios=(3.6, 2)))
    for axes, variant in zip(np.ravel(top.subplots(1, len(variants))), variants, strict=True):
        _panel(axes, variant, variant.looks[number])
    measures = measures_of(variants, law)
    for axes, (measure, label) in zip(np.ravel(bottom.subplots(1, len(measures))), measures.items(), strict=True):
        _curve(axes, variants, measure, label, number)
    handles, labels = bottom.axes[0].get_legend_handles_labels()
    bottom.legend(handles, labels, loc="outside lower center", ncols=len(variants), frameon=False, fontsize=9)
    return figure


def _panel(axes: Any, variant: Variant, look: Look) -> None:
    field = look.field
    extent = (-field.reach, field.reach, -field.reach, field.reach)
    axes.imshow(field.logits, origin="lower", extent=extent, cmap="RdBu", interpolation="bilinear", alpha=0.75)
    steps = np.linspace(-field.reach, field.reach, len(field.logits))[_ARROWS // 2 :: _ARROWS]
    slopes = field.slopes[_ARROWS // 2 :: _ARROWS, _ARROWS // 2 :: _ARROWS]
    length = np.linalg.norm(slopes, axis=2, keepdims=True)
    arrows = slopes / np.maximum(length, 1e-12) * (length / (length + np.median(length) + 1e-12))
    axes.quiver(steps, steps, arrows[..., 0], arrows[..., 1], color="#1f2430", alpha=0.55, scale=22, width=0.004)
    axes.scatter(*look.real.T, s=2, color="#1f2430", alpha=0.25, linewidths=0)
    axes.scatter(*look.generated.T, s=4, color="#E69F00", alpha=0.8, linewidths=0)
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.tick_params(labelsize=7)
    axes.set_title(f"{variant.name}\n{look.kimg:.0f} kimg", fontsize=9)


def _curve(axes: Any, variants: Sequence[Variant], measure: str, label: str, number: int) -> None:
    for variant, colour in zip(variants, _COLOURS, strict=False):
        rows = [row for row in variant.rows if row.get(measure) is not None]
        kimg, values = [row["kimg"] for row in rows], [row[measure] for row in rows]
        upto = sum(row["kimg"] <= variant.rows[number]["kimg"] for row in rows)
        axes.plot(kimg, values, color=colour, alpha=0.2, linewidth=1)
        axes.plot(kimg[:upto], values[:upto], color=colour, linewidth=1.6, label=variant.name)
    axes.set_title(label, fontsize=8)
    axes.set_xlabel("points shown (kimg)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if measure != "optimality":
        axes.set_ylim(bottom=0)
    cast(Any, axes).grid(alpha=0.25)
