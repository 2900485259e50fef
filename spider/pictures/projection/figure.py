"""How the distance fell, step by step, of all images of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spider.files import save_figure

_MOST_NAMED = 20  # lines that are told from each other by colours
_LONGEST_NAME = 28  # characters

Ways = Mapping[str, Sequence[float]]  # the distance before the first step and after each, by the name of the image


def draw_ways(path: Path, label: str, searched: Ways, tuned: Ways) -> None:
    """Write a PNG: a panel of the search and, where any was tuned, one of the tuning; the legend stands beside them.

    Of more than 20 images every line is grey, and their median is drawn. `label`: of the distance.
    """
    panels = {"search of the input": searched}
    if tuned:
        panels["tuning of the weights"] = tuned
    figure = Figure(figsize=(5.2 * len(panels) + 2, 4.2), layout="constrained", dpi=120)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    colour = colormaps["tab10" if len(searched) <= 10 else "tab20"]  # by numbers from 0 on
    colours = {name: colour(number) for number, name in enumerate(searched)} if len(searched) <= _MOST_NAMED else {}
    for axes, (title, ways) in zip(grid.flat, panels.items(), strict=True):
        _draw(axes, title, ways, colours)
    grid.flat[0].set_ylim(bottom=0)  # after all is drawn: it ends the scaling of both panels
    grid.flat[0].set_ylabel(f"{label} from the target")
    lines = grid.flat[0].get_legend_handles_labels()
    figure.legend(*lines, title="target", loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw(axes: Axes, title: str, ways: Ways, colours: Mapping[str, tuple[float, ...]]) -> None:
    """Each of `ways` in its colour, or all in grey where it has none."""
    for number, (name, way) in enumerate(ways.items()):
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
        if colours:
            axes.plot(range(len(way)), way, linewidth=1.2, color=colours[name], label=shown)
        else:
            axes.plot(range(len(way)), way, linewidth=0.6, color="0.75", label="" if number else "each image")
    if not colours:
        steps = np.array([*zip_longest(*ways.values(), fillvalue=np.nan)])  # [steps, images]
        axes.plot(np.nanmedian(steps, axis=1), linewidth=2, color="black", label=f"median of {len(ways)}")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
