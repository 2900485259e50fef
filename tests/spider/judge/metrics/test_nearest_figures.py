"""The figures say which images they show, and can be read."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from spider.gan.sources.frozen import GeneratedImages
from spider.judge.metrics.distances import Nearest
from spider.judge.metrics.nearest import NearestTraining
from spider.judge.metrics.nearest_figures import histogram, panel


class Images:
    """Grey squares."""

    fingerprint = ""

    def __init__(self, name, count):
        self.name, self.count = name, count

    def __len__(self):
        return self.count

    def batch(self, start, stop):
        return torch.full((stop - start, 1, 16, 16), 128, dtype=torch.uint8)


class Made(GeneratedImages):
    """The same, of a generator."""

    batch = Images.batch

    def __init__(self, seed):
        super().__init__(None, "a-run-with-quite-a-long-name-seed0@123456.789", seed, 3000)


@pytest.fixture
def found():
    rng = np.random.default_rng(0)
    distances, indices = rng.gamma(9, 0.1, 3000), rng.integers(0, 70_000, 3000)
    return NearestTraining(Nearest(distances, indices), rng.gamma(9, 0.1, 500), held_out=False)


def texts(figure):
    """What is written where, as boxes in pixels."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    written = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    return {text: text.get_window_extent(renderer) for text in written}


@pytest.mark.parametrize("draw", [histogram, lambda found: panel(found, Made(0), Images("training", 70_000))])
def test_no_text_lies_on_another_or_leaves_the_figure(found, draw):
    figure = draw(found)
    written = texts(figure)
    assert len(written) > 5
    for one, other in combinations(written, 2):
        assert not written[one].overlaps(written[other]), (one.get_text(), other.get_text())
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 <= drawn.x0 <= drawn.x1 <= width
    assert 0 <= drawn.y0 <= drawn.y1 <= height


def test_a_panel_names_the_seeds_that_make_its_samples_again(found):
    closest = int(np.argmin(found.samples.distances))
    twin = found.samples.indices[closest]
    for samples, name in ((Made(0), "seed"), (Made(1), "sample"), (Images("set", 3000), "sample")):
        words = [text.get_text() for text in texts(panel(found, samples, Images("training", 70_000)))]
        assert any(text.startswith(f"{name} {closest} · image {twin}\n") for text in words)


def test_the_histogram_names_its_axes(found):
    (axes,) = histogram(found).axes
    assert axes.get_ylabel() == "% of images"
    assert "distance to the nearest training image" in axes.get_xlabel()
