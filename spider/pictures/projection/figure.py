"""How the distance fell, step by step, of all images of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spider.files import save_figure

_MOST_NAMED = 8  # lines that have an entry in the legend

Ways = Mapping[str, Sequence[float]]  # the distance before the first step and after each, by the name of the image


def draw_ways(path: Path, label: str, searched: Ways, tuned: Ways) -> None:
    """Write a PNG: a panel of the search and, where any was tuned, one of the tuning. `label`: of the distance."""
    panels = {"search of the input": searched}
    if tuned:
        panels["tuning of the weights"] = tuned
    figure = Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained", dpi=120)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axes, (title, ways) in zip(grid.flat, panels.items(), strict=True):
        _draw(axes, title, label, ways)
    if len(searched) <= _MOST_NAMED:
        grid.flat[0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw(axes: Axes, title: str, label: str, ways: Ways) -> None:
    for name, way in ways.items():
        axes.plot(range(len(way)), way, linewidth=1, label=name)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{label} from the given image")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
