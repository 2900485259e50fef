"""The movie of a toy: a panel for each variant, and below them what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shards.points import Modes
from spider.files import save_figure
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


def draw(variants: Sequence[Variant], law: Modes | None, movie: Path, last: Path) -> None:
    """Write the movie, and its last frame as an image."""
    count = min(len(each.looks) for each in variants)
    write_movie(movie, _frames(variants, law, count))
    save_figure(_figure(variants, law, count - 1, dpi=130), last)


def _frames(variants: Sequence[Variant], law: Modes | None, count: int) -> Iterator[Frame]:
    for number in [*range(count), *[count - 1] * 12]:  # the end stands for a second
        canvas: Any = FigureCanvasAgg(_figure(variants, law, number, dpi=80))
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(variants: Sequence[Variant], law: Modes | None, number: int, dpi: int) -> Figure:
    wide = max(2, len(variants))
    figure = Figure(figsize=(3.6 * wide, 5.6), layout="constrained", dpi=dpi)
    top, bottom = cast(Any, figure.subfigures(2, 1, height_ratios=(3.6, 2)))
    for axes, variant in zip(np.ravel(top.subplots(1, len(variants))), variants, strict=True):
        _panel(axes, variant, variant.looks[number])
    measures = ["distance"] if law is None else ["modes", "good", "distance"]
    if any("slicing/optimality" in each.rows[-1] for each in variants):
        measures.append("slicing/optimality")
    for axes, measure in zip(np.ravel(bottom.subplots(1, len(measures))), measures, strict=True):
        _curve(axes, variants, measure, number, law)
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


def _curve(axes: Any, variants: Sequence[Variant], measure: str, number: int, law: Modes | None) -> None:
    labels = {
        "modes": f"modes covered (of {0 if law is None else len(law.centres)})",
        "good": "share of points near a mode",
        "distance": "energy distance",
        "slicing/optimality": "optimality of the direction",
    }
    for variant, colour in zip(variants, _COLOURS, strict=False):
        rows = [row for row in variant.rows if row.get(measure) is not None]
        kimg, values = [row["kimg"] for row in rows], [row[measure] for row in rows]
        upto = sum(row["kimg"] <= variant.rows[number]["kimg"] for row in rows)
        axes.plot(kimg, values, color=colour, alpha=0.2, linewidth=1)
        axes.plot(kimg[:upto], values[:upto], color=colour, linewidth=1.6, label=variant.name)
    axes.set_title(labels[measure], fontsize=8)
    axes.set_xlabel("points shown (kimg)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if measure != "slicing/optimality":
        axes.set_ylim(bottom=0)
    cast(Any, axes).grid(alpha=0.25)
