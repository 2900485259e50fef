"""Two figures to judge copying by eye.

nearest-histogram.png   distances to the nearest training image: of the samples, and of images that are no copies
nearest-panel.png       samples beside their nearest training images: the closest ones, then some from all distances;
                        the one called seed 7 is what `spider generate RUN --seeds 7` writes
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from spider.files import save_figure
from spider.gan.sources.frozen import GeneratedImages
from spider.judge.embed.images import NumberedImages
from spider.judge.metrics.nearest import TAIL, NearestTraining
from spider.pictures.generate import SEED

HISTOGRAM, PANEL = "nearest-histogram.png", "nearest-panel.png"
_COLUMNS = 6  # pairs in a row of the panel
_CLOSEST_ROWS, _SPREAD_ROWS = 2, 3
_SAMPLES, _UNSEEN = "#c2410c", "#475569"


def draw_histogram(path: Path, found: NearestTraining) -> None:
    """Distances of samples and of unseen images as shares, on one axis."""
    save_figure(histogram(found), path)


def draw_panel(path: Path, found: NearestTraining, samples: NumberedImages, training: NumberedImages) -> None:
    """Pairs of sample (left) and nearest training image (right), with their numbers and distances."""
    save_figure(panel(found, samples, training), path)


def histogram(found: NearestTraining) -> Figure:
    """What `draw_histogram` writes."""
    figure = Figure(figsize=(7, 3.6), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    both = np.concatenate([found.samples.distances, found.unseen])
    bins = np.linspace(0, max(float(np.quantile(both, 0.999)), 1e-9), 61)
    for distances, colour, label in (
        (found.unseen, _UNSEEN, found.scale),
        (found.samples.distances, _SAMPLES, "samples"),
    ):
        axes.hist(
            np.minimum(distances, bins[-1]),
            bins=list(bins),
            weights=np.full(len(distances), 100 / len(distances)),
            histtype="stepfilled",
            facecolor=(colour, 0.2),
            edgecolor=colour,
            label=f"{label} ({len(distances):,})",
        )
        axes.axvline(float(np.median(distances)), color=colour, linestyle="--", linewidth=1)
    axes.axvline(found.tail, color=_UNSEEN, linestyle=":", linewidth=1)
    axes.set_xlim(0, bins[-1])
    axes.set_xlabel("distance to the nearest training image, in the embedding's features (dashed: medians)")
    axes.set_ylabel("% of images")
    axes.set_title(
        f"samples are {found.ratio:.2f} times as far as {found.scale} (medians);\n"
        f"{found.share_in_tail:.1%} of them left of the dotted line, where copies would be and {TAIL:.0%} is usual",
        fontsize=10,
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def panel(found: NearestTraining, samples: NumberedImages, training: NumberedImages) -> Figure:
    """What `draw_panel` writes."""
    order = np.argsort(found.samples.distances, kind="stable")
    closest = order[: _COLUMNS * _CLOSEST_ROWS]
    spread = order[np.unique(np.linspace(0, len(order) - 1, _COLUMNS * _SPREAD_ROWS).round().astype(int))]
    sections = [("the closest", closest), ("from the closest to the farthest", spread)]
    heights = [-(-len(chosen) // _COLUMNS) for _, chosen in sections]
    layout = ConstrainedLayoutEngine(wspace=0.12, w_pad=0.06, h_pad=0.03)
    figure = Figure(figsize=(_COLUMNS * 2.2, sum(heights) * 1.45 + 1.3), layout=layout, dpi=100)
    figure.suptitle(
        f"{samples.name}: each sample (left) beside its nearest image in {training.name} (right)\n"
        f"below: their numbers; the distance, and the share of {found.scale} that are nearer than that",
        fontsize=11,
    )
    grid = figure.add_gridspec(len(sections), 1, height_ratios=[height + 0.25 for height in heights])
    for row, (title, chosen) in enumerate(sections):
        part = figure.add_subfigure(grid[row])
        part.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        _draw_pairs(part, chosen, found, samples, training)
    return figure


def _draw_pairs(
    part: SubFigure,
    chosen: NDArray[np.int64],
    found: NearestTraining,
    samples: NumberedImages,
    training: NumberedImages,
) -> None:
    rows = -(-len(chosen) // _COLUMNS)
    grid = part.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, i in zip(grid.flat, chosen, strict=False):
        distance, twin = found.samples.distances[i], int(found.samples.indices[i])
        axes.imshow(_side_by_side(_picture(samples, int(i)), _picture(training, twin)), interpolation="nearest")
        nearer = float((found.unseen < distance).mean())
        axes.set_xlabel(f"{_number(samples, int(i))} · image {twin}\n{distance:.3g} · {nearer:.1%}", fontsize=8)


def _number(samples: NumberedImages, i: int) -> str:
    """Sample `i` as `spider generate` takes it; otherwise as a sample."""
    return f"seed {i}" if isinstance(samples, GeneratedImages) and samples.seed == SEED else f"sample {i}"


def _picture(images: NumberedImages, i: int) -> NDArray[np.uint8]:
    """Image i as RGB [H, W, 3]."""
    image = images.batch(i, i + 1)[0].cpu()
    picture: NDArray[np.uint8] = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return picture


def _side_by_side(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two RGB images with a white gap, the smaller one enlarged by whole factors where sizes differ."""
    height = max(len(left), len(right))
    left, right = (np.kron(p, np.ones((max(1, height // len(p)),) * 2 + (1,), np.uint8)) for p in (left, right))
    tall = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in (left, right)]
    gap = np.full((height, max(1, height // 16), 3), 255, np.uint8)
    return np.concatenate([tall[0], gap, tall[1]], axis=1)
