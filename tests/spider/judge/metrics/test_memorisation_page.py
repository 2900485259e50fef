"""The figures say which images they show, and can be read."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from spider.gan.sources.frozen import GeneratedImages
from spider.judge.metrics.comparison import Score
from spider.judge.metrics.distances import Nearest
from spider.judge.metrics.memorisation_page import Pictures, beside, measured, page, verdict
from spider.judge.metrics.nearest import NearestTraining


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

    batch = None  # which makes whole blocks

    def __init__(self, seed):
        super().__init__(None, "a-run-with-quite-a-long-name-seed0@123456.789", seed, 3000)
        self.asked = []

    def shown(self, numbers):
        self.asked += numbers
        return Images.batch(self, 0, len(numbers))


def distances(seed, count, start=0.0):
    rng = np.random.default_rng(seed)
    return Nearest(start + rng.gamma(9, 0.1, count), rng.integers(0, 70_000, count))


@pytest.fixture
def found():
    return NearestTraining(distances(0, 3000), distances(1, 500), np.arange(500), held_out=False)


def pictures(samples, training=None, unseen=None):
    training = training or Images("training", 70_000)
    scores = Score(0.4321, stderr=0.02, details={"held_out": 0.45}), Score(-12.34, stderr=0.56)
    return Pictures(samples, training, unseen or training, "inception/tf@0123456789ab", *scores)


def texts(figure):
    """What is written where, as boxes in pixels."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    written = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    return {text: text.get_window_extent(renderer) for text in written}


@pytest.mark.parametrize("nearer", [1, 50])
def test_no_text_lies_on_another_or_leaves_the_page(found, nearer):
    near = Nearest(found.samples.distances / nearer, found.samples.indices)
    figure = page(replace(found, samples=near, copies=20), pictures(Made(0)))
    written = texts(figure)
    assert len(written) > 40
    for one, other in combinations(written, 2):
        assert not written[one].overlaps(written[other]), (one.get_text(), other.get_text())
    below = sorted((written[each] for each in figure.texts), key=lambda box: -box.y0)
    gaps = [(upper.y0 - lower.y1) / figure.dpi for upper, lower in pairwise(below)]
    assert len(gaps) == 2
    assert all(0.05 < gap < 0.25 for gap in gaps)  # inches: words as long as they are, and no empty place
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 <= drawn.x0 <= drawn.x1 <= width + 1e-9
    assert 0 <= drawn.y0 <= drawn.y1 <= height + 1e-9


def test_a_page_names_the_seeds_that_make_its_samples_again(found):
    closest = int(np.argmin(found.samples.distances))
    twin = found.samples.indices[closest]
    for samples, name in ((Made(0), "seed"), (Made(1), "no."), (Images("set", 3000), "no.")):
        words = [text.get_text() for text in texts(page(found, pictures(samples)))]
        told = f"{name} {closest} · image {twin}\ndistance {found.samples.distances.min():.3g}\n"
        nearer = float((found.unseen < found.samples.distances.min()).mean())
        assert f"{told}{nearer:.1%} of real pairs are closer" in words


def test_a_page_makes_the_samples_that_it_shows_and_no_others(found):
    """A block of them for each takes longer than all metrics."""
    samples = Made(0)
    page(found, pictures(samples))
    closest = np.argsort(found.samples.distances)[:12]
    assert {*closest.tolist()} <= {*samples.asked}
    assert len(samples.asked) == 24


def test_a_page_says_what_is_expected_when_nothing_is_memorised(found):
    assert "if nothing is memorised, 1.0% are expected" in measured(found)
    copies = replace(found, samples=Nearest(found.samples.distances / 50, found.samples.indices))
    assert [verdict(each) for each in (found, copies)] == ["No sign of copies.", "Some samples look like copies."]
    assert verdict(found, Score(-2.9)) == verdict(found)
    assert "by C_T the samples are too near" in verdict(found, Score(-3.1))
    assert verdict(copies, Score(-3.1)) == verdict(copies)
    noise = replace(found, samples=Nearest(found.samples.distances + 9, found.samples.indices))
    assert verdict(noise).startswith("No: every sample is unlike the training images")
    some = np.where(np.arange(3000) < 30, found.samples.distances, noise.samples.distances)
    unlike = replace(found, samples=Nearest(some, found.samples.indices))
    assert verdict(unlike) == "No sign of copies, but the samples are unlike the training images anyhow."
    assert measured(noise).startswith(
        "No sample is nearer to a training image than the nearest of the 500 training images is"
    )
    assert "this happens in fewer than one of 1,000,000 evaluations" in measured(copies)
    told = beside(pictures(Made(0)))
    assert "Authenticity: 43.2% ± 2.0% of the samples (of the held-out images: 45.0%)" in told
    assert "C_T: -12.3 ± 0.6; about 0 if nothing is memorised" in told
    assert beside(replace(pictures(Made(0)), authenticity=None, ct=Score(np.nan))) == ""
    left, right = page(found, pictures(Made(0))).axes[:2]
    assert left.get_ylabel() == "% of images"
    assert right.get_ylabel() == "% of samples"
    assert all("If nothing is memorised" in axes.get_title() for axes in (left, right))
    bars = np.array(
        [bar.get_height() for bar in right.patches if bar.get_facecolor() == right.patches[0].get_facecolor()]
    )
    np.testing.assert_allclose(bars, 5, atol=2.5)  # 20 bars of one law
    assert bars.sum() == pytest.approx(100)


def test_the_nearest_real_images_are_shown_each_pair_once():
    """Beside the samples; not those whose features alone are at hand."""
    each_others = np.arange(40)[::-1]  # 0 and 39, 1 and 38, ...
    scale = Nearest(np.minimum(np.arange(40), each_others) + 1.0, each_others)
    for held_out, unseen, shown in ((False, None, 6), (True, Images("test", 40), 6), (True, "none", 0)):
        found = NearestTraining(distances(0, 100), scale, np.arange(40), held_out)
        of = pictures(Made(0), unseen=unseen)
        if unseen == "none":
            of = Pictures(of.samples, of.training, None, of.embedding)
        words = [text.get_text() for text in texts(page(found, of))]
        pairs = [tuple(text.split("\n")[0].split(" · ")) for text in words if text.startswith(("image ", "no. "))]
        assert len(pairs) == shown
        numbers = [frozenset(int(part.split()[-1]) for part in pair) for pair in pairs]
        assert held_out or len(set(numbers)) == shown
