"""The memorisation page: one picture from which a person can tell whether samples are copies of training images.

memorisation-EMBEDDING.png
                    a verdict in words, and what is expected when nothing is memorised
                    distances to the nearest training image: of samples, and of real images that are no copies
                    the same, calibrated: how many real images are nearer than a sample
                    pairs: the closest samples, the closest of the real images, and samples from all distances, each
                    with the share of real pairs that are closer; the one called seed 7 is what `spider generate RUN
                    --seeds 7` writes

No metric is known to find all memorisation (Stein et al. 2023), so that the pairs have to be looked at.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spider.files import save_figure
from spider.gan.sources.frozen import GeneratedImages
from spider.judge.embed.images import NumberedImages
from spider.judge.metrics.comparison import Score
from spider.judge.metrics.distances import Nearest
from spider.judge.metrics.nearest import TAIL, NearestTraining
from spider.pictures.generate import SEED
from untrusted.counts import counted

_COLUMNS = 6  # pairs in a row
_CLOSEST_ROWS, _UNSEEN_ROWS, _SPREAD_ROWS = 2, 1, 2
_UNLIKE = 0.95  # of the images that are no copies are nearer than half of the samples
_COPYING = -3  # C_T; hardly ever below it if nothing is memorised (Meehan et al. 2020)
_SELDOM = 0.1  # a probability, below which it is told as odds
_MANY = 200  # unseen images, from which on the calibrated bars are finer
_SAMPLES, _UNSEEN = "#c2410c", "#475569"
_WIDTH, _MARGIN, _PLOTS, _TITLE, _ROW = 13.2, 0.15, 3.6, 0.32, 1.6  # inches
_HEADING, _LINE_HEIGHT, _BETWEEN = 0.44, 0.195, 0.1  # inches: of the words above, of which 10 points are a line
_PAIR = (2.0, 1.0)  # inches, width and height
_LINE = 165  # characters of a line of words


@dataclass(frozen=True)
class Pictures:
    """The images behind the distances.

    Attributes:
        samples: whose nearest training images were found.
        training: those.
        unseen: the set of the images that are no copies, which is `training` where they leave themselves out; None
            where only their features are at hand.
        embedding: the label of that in which distances are taken.
        authenticity, ct: of the same samples (`spider.judge.metrics.authenticity`, `data_copying`); None: not defined.
    """

    samples: NumberedImages
    training: NumberedImages
    unseen: NumberedImages | None
    embedding: str
    authenticity: Score | None = None
    ct: Score | None = None


def draw_page(path: Path, found: NearestTraining, pictures: Pictures) -> None:
    """Write the page as PNG."""
    save_figure(page(found, pictures), path)


def verdict(found: NearestTraining, ct: Score | None = None) -> str:
    """What was found, in a few words. `ct` is as of `Pictures`."""
    if found.looks_copied:
        return "Some samples look like copies."
    if math.isnan(found.ratio):
        return "Nothing tells: all real images to judge by are copies, too."
    if float(found.nearer.min()) > _UNLIKE:
        return "No: every sample is unlike the training images, as before a training has taught anything."
    if ct is not None and ct.value < _COPYING:
        return "No copies among the nearest, but by C_T the samples are too near on the whole."
    unlike = float(np.median(found.nearer)) > _UNLIKE
    return f"No sign of copies{', but the samples are unlike the training images anyhow' if unlike else ''}."


def measured(found: NearestTraining) -> str:
    """What that rests on, and what is expected when nothing is memorised."""
    usual = found.usual
    low, high = (max(0.0, usual + sign * 2 * found.chance(usual)) for sign in (-1, 1))
    others = "held-out images is" if found.held_out else "training images is to another one"
    some = counted(found.ahead, "sample is", "samples are") if found.ahead else "No sample is"
    nearest = f"{some} nearer to a training image than the nearest of the {len(found.unseen):,} {others}"
    if found.ahead > 0:
        nearest += f"; if nothing is memorised, this happens in {_odds(found.chance_of_ahead)} evaluations"
    tail = (
        f"{found.share_in_tail:.1%} of the samples are as near as the nearest {TAIL:.0%} of those; if nothing is "
        f"memorised, {usual:.1%} are expected, and {low:.1%} to {high:.1%} are common"
    )
    return ". ".join([nearest, tail, *([found.left_out] if found.left_out is not None else [])]) + "."


def beside(pictures: Pictures) -> str:
    """What two published measures of memorisation say."""
    sentences = []
    if (share := pictures.authenticity) is not None:
        held_out = share.details.get("held_out")
        others = "" if held_out is None else f" (of the held-out images: {held_out:.1%})"
        sentences.append(
            f"Authenticity: {share.value:.1%} ± {share.stderr or 0:.1%} of the samples{others} are no closer to a "
            "training image than another training image is."
        )
    if (ct := pictures.ct) is not None and math.isfinite(ct.value):
        expected = f"about 0 if nothing is memorised, and hardly ever below {_COPYING}"
        sentences.append(f"C_T: {ct.value:.1f} ± {ct.stderr or 0:.1f}; {expected}.")
    return " ".join(sentences)


def _odds(probability: float) -> str:
    """`40% of`, `one of 900`, `fewer than one of 1,000,000`."""
    if probability >= _SELDOM:
        return f"{probability:.0%} of"
    if probability < 1e-6:
        return "fewer than one of 1,000,000"
    return f"one of {float(f'{1 / probability:.1g}'):,.0f}"


def page(found: NearestTraining, pictures: Pictures) -> Figure:
    """What `draw_page` writes. Everything stands at a place in inches, which is quicker than to look for one."""
    sections = _sections(found, pictures)
    heights = [_TITLE + _ROW * -(-len(section.chosen) // _COLUMNS) for section in sections]
    paragraphs = [textwrap.fill(text, _LINE) for text in _paragraphs(found, pictures)]
    words = _HEADING + sum(_height(text) for text in paragraphs)
    top = words + _PLOTS + sum(heights)
    figure = Figure(figsize=(_WIDTH, top), dpi=100)
    _write_words(figure, top, f"Are they copies? {verdict(found, pictures.ct)}", paragraphs)
    top -= words
    for draw, left in ((_draw_distances, 0.7), (_draw_calibrated, 0.6 + _WIDTH / 2)):
        draw(_axes(figure, left, top - _PLOTS + 0.65, _WIDTH / 2 - 0.8, _PLOTS - 1.15), found)
    top -= _PLOTS
    for section, height in zip(sections, heights, strict=True):
        _draw_pairs(_axes(figure, 0, top - height, _WIDTH, height), section, found, pictures.training)
        top -= height
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """At a place in inches from the figure's lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


@dataclass(frozen=True)
class _Section:
    """Pairs under a title.

    Attributes:
        images, numbers: whose images, and their numbers there.
        nearest: their nearest training images, by place in `numbers`.
        chosen: places.
    """

    title: str
    images: NumberedImages
    numbers: NDArray[np.int64]
    nearest: Nearest
    chosen: NDArray[np.int64]


def _sections(found: NearestTraining, pictures: Pictures) -> list[_Section]:
    every_sample = np.arange(len(found.samples.distances))
    order = np.argsort(found.samples.distances, kind="stable")
    spread = np.unique(np.linspace(0, len(order) - 1, _COLUMNS * _SPREAD_ROWS).round().astype(int))
    of_samples = (pictures.samples, every_sample, found.samples)
    sections = [_Section("The closest samples", *of_samples, order[: _COLUMNS * _CLOSEST_ROWS])]
    if pictures.unseen is not None:
        title = f"For comparison, the closest of {found.scale_name}: no copies, unless the collection has duplicates"
        closest = _closest_unseen(found)
        sections.append(_Section(title, pictures.unseen, found.scale_images, found.scale, closest))
    return [*sections, _Section("Samples from the closest to the farthest", *of_samples, order[spread])]


def _closest_unseen(found: NearestTraining) -> NDArray[np.int64]:
    """Their places, without the second of two training images that are each other's nearest."""
    order = np.argsort(found.unseen, kind="stable")
    if not found.held_out:
        pairs = np.sort(np.stack([found.scale_images, found.scale.indices], axis=1)[order], axis=1)
        order = order[np.sort(np.unique(pairs, axis=0, return_index=True)[1])]
    return np.asarray(order[: _COLUMNS * _UNSEEN_ROWS])


def _paragraphs(found: NearestTraining, pictures: Pictures) -> list[str]:
    """What was measured, and how to read the pairs."""
    compared = (
        f"Compared are {len(found.samples.distances):,} samples of {pictures.samples.name} and "
        f"{len(pictures.training):,} training images of {pictures.training.name}."
    )
    real = "a held-out image" if found.held_out else "a training image"
    other = "training image" if found.held_out else "other training image"
    explained = (
        "How to read the pairs: on the left an image, on the right the training image most like it, by the features of "
        f"{pictures.embedding}. Below stand their numbers, and their distance: 0 is the same image. A real pair is "
        f"{real} with the {other} most like it. Near 0% of real pairs are closer: the two are more alike than two "
        "different real images are, and may be a copy. About 50%: as alike as real images are. Near 100%: the sample "
        "is like no training image. Look before you believe a number: a close pair that shows another object, or only "
        "the same background, is no copy."
    )
    return [f"{compared} {measured(found)} {beside(pictures)}", explained]


def _height(paragraph: str) -> float:
    """In inches, with the space below."""
    return _LINE_HEIGHT * (1 + paragraph.count("\n")) + _BETWEEN


def _write_words(figure: Figure, top: float, title: str, paragraphs: Sequence[str]) -> None:
    """From the top of a page of this height, in inches."""
    below = 0.12
    figure.text(_MARGIN / _WIDTH, 1 - below / top, title, fontsize=13, fontweight="bold", va="top")
    below = _HEADING
    for text in paragraphs:
        figure.text(_MARGIN / _WIDTH, 1 - below / top, text, fontsize=10, va="top", linespacing=1.4)
        below += _height(text)


def _draw_distances(axes: Axes, found: NearestTraining) -> None:
    """Distances of samples and of unseen images as shares, on one axis."""
    both = np.concatenate([found.samples.distances, found.unseen])
    bins = np.linspace(0, max(float(np.quantile(both, 0.999)), 1e-9), 61)
    for distances, colour, label in (
        (found.unseen, _UNSEEN, found.scale_name),
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
    axes.set_xlim(0, bins[-1])
    axes.margins(y=0.3)
    axes.set_xlabel("distance to the nearest training image (dashed: medians)")
    axes.set_ylabel("% of images")
    axes.set_title("If nothing is memorised, both lie in the same place;\ncopies lie at the left end", fontsize=10)
    axes.legend(loc="upper left", framealpha=1, edgecolor="none", fontsize=9)


def _draw_calibrated(axes: Axes, found: NearestTraining) -> None:
    """How the samples are spread over the distances of unseen images: evenly, if they follow one law."""
    bars = 20 if len(found.unseen) >= _MANY else 10
    shares, edges = np.histogram(found.nearer, bins=bars, range=(0, 1), weights=np.full_like(found.nearer, 100))
    shares = shares / len(found.nearer)
    expected, chance = 100 / bars, 200 * found.chance(1 / bars)
    axes.bar(100 * edges[:-1], shares, width=100 / bars, align="edge", facecolor=(_SAMPLES, 0.2), edgecolor=_SAMPLES)
    axes.axhspan(max(0.0, expected - chance), expected + chance, color=_UNSEEN, alpha=0.25, linewidth=0)
    axes.axhline(expected, color=_UNSEEN, linewidth=1)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of real pairs that are closer than the sample and its training image")
    axes.set_ylabel("% of samples")
    axes.set_title(
        "If nothing is memorised, 19 of 20 bars end in the grey band;\n"
        "copies stand at the left, unlike images at the right",
        fontsize=10,
    )


def _draw_pairs(axes: Axes, section: _Section, found: NearestTraining, training: NumberedImages) -> None:
    """In axes whose coordinates are inches."""
    height = _TITLE + _ROW * -(-len(section.chosen) // _COLUMNS)
    axes.set_axis_off()
    axes.text(_MARGIN, height - 0.05, section.title, fontsize=11, fontweight="bold", va="top")
    numbers = [int(section.numbers[place]) for place in section.chosen]
    twins = [int(section.nearest.indices[place]) for place in section.chosen]
    pairs = zip(_pictures(section.images, numbers), _pictures(training, twins), strict=True)
    for k, (place, number, twin, pictures) in enumerate(zip(section.chosen, numbers, twins, pairs, strict=True)):
        row, column = divmod(k, _COLUMNS)
        left, top = (column + 0.5) * _WIDTH / _COLUMNS, height - _TITLE - row * _ROW
        pair = _side_by_side(*pictures)
        inch = min(_PAIR[0] / pair.shape[1], _PAIR[1] / pair.shape[0])  # of a pixel
        half, low = inch * pair.shape[1] / 2, top - inch * pair.shape[0]
        axes.imshow(pair, interpolation="nearest", extent=(left - half, left + half, low, top))
        distance = section.nearest.distances[place]
        nearer = float((found.unseen < distance).mean())
        names = f"{_number(section.images, number, training)} · image {twin}"
        told = f"{names}\ndistance {distance:.3g}\n{nearer:.1%} of real pairs are closer"
        axes.text(left, low - 0.04, told, fontsize=8, ha="center", va="top")
    axes.set(xlim=(0, _WIDTH), ylim=(0, height), aspect="auto")


def _number(images: NumberedImages, i: int, training: NumberedImages) -> str:
    """Image `i` as `spider generate` takes it, if it is a generator's; otherwise by what it is."""
    if isinstance(images, GeneratedImages) and images.seed == SEED:
        return f"seed {i}"
    return f"image {i}" if images is training else f"no. {i}"


def _pictures(images: NumberedImages, numbers: Sequence[int]) -> list[NDArray[np.uint8]]:
    """The images of these numbers, each as RGB [H, W, 3]."""
    if isinstance(images, GeneratedImages):
        found = list(images.shown(numbers))
    else:
        found = [images.batch(number, number + 1)[0].cpu() for number in numbers]
    return [image.expand(3, -1, -1).permute(1, 2, 0).numpy() for image in found]


def _side_by_side(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two RGB images with a white gap, the smaller one enlarged by whole factors where sizes differ."""
    height = max(len(left), len(right))
    left, right = (np.kron(p, np.ones((max(1, height // len(p)),) * 2 + (1,), np.uint8)) for p in (left, right))
    tall = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in (left, right)]
    gap = np.full((height, max(1, height // 8), 3), 255, np.uint8)
    return np.concatenate([tall[0], gap, tall[1]], axis=1)
