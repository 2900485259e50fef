"""Searching for the input of an image: laws on tiny networks, by a distance of pixels that costs nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from cluster.world import World
from spider.gan.conditions.conditions import Conditions
from spider.gan.networks.build import build_generator
from spider.gan.networks.dcgan_config import DcganGeneratorConfig
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.gan.sources.config import GaussianConfig, GmmConfig, ImagesConfig
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.gaussian import Gaussian
from spider.gan.sources.gmm import Gmm
from spider.gan.sources.images import Images
from spider.pictures.projection.judge import Judge
from spider.pictures.projection.nearest import nearest_samples
from spider.pictures.projection.points import read_point, write_point
from spider.pictures.projection.search import correlation, maps_of_noise, ramp, search
from spider.pictures.projection.spaces import (
    Point,
    SpaceOfLayers,
    SpaceOfSources,
    chosen_space,
    mean_w,
    space_of_inputs,
    spaces_of,
)
from spider.pictures.projection.tuning import tune
from spider.tensors import sha256_of_state_dict

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
STYLES = {"channel_base": 128, "channel_max": 8, "w_dim": 8, "mapping_layers": 2, "style_mixing": 0.0}


class Pixels:
    """A distance: of images and of their averages over 4 x 4 pixels."""

    label = "pixels"

    def maps(self, images):
        return [images, avg_pool2d(images, 4)]

    def between(self, a, b):
        return sum((x - y).square().mean((1, 2, 3)) for x, y in zip(a, b, strict=True))

    def __call__(self, a, b):
        return self.between(self.maps(a), self.maps(b))


def frozen(config, source):
    module = build_generator(config, source, SHAPE, World.single(), seed=0)
    for name, parameter in module.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.05)
    return FrozenGenerator(module, source, Conditions(), SHAPE, CPU, training="none")


def styled(noise="const"):
    return frozen(Stylegan2GeneratorConfig(**STYLES, noise=noise), Gaussian(GaussianConfig(dim=8)))


@pytest.fixture
def generators(patches):
    """Of every kind of input, by the space to search."""
    vectors = DcganGeneratorConfig(width=0.05)
    images = Images(ImagesConfig(path=str(patches), noise_std=0.1), SHAPE, CPU)
    return {
        "w": styled(),
        "w+": styled("random"),
        "z": frozen(vectors, Gaussian(GaussianConfig(dim=8))),
        "source": frozen(vectors, images),
        "gmm": frozen(vectors, Gmm(GmmConfig(dim=8, components=3))),
    }


def watched(*_):
    """Nobody looks."""


def found_in(generator, space, judge, nearest, steps, seed=0):
    """The space, and what was found in it, as the verb searches it."""
    if space not in ("w", "w+"):
        fed = space_of_inputs(generator, nearest.number, None)
        return fed, search(fed, fed.sample(), judge, steps, seed, watched)
    one, mean = SpaceOfLayers(generator, nearest.number, None, "w"), mean_w(generator, None)
    found = search(one, Point(mean.mean, one.noise()), judge, steps, seed, watched, wander=mean.wander)
    if space == "w":
        return one, found
    each = SpaceOfLayers(generator, nearest.number, None, "ws")
    start = Point(each.spread(found.point.where), found.point.noise)
    return each, search(each, start, judge, steps, seed, watched)


def judged(generator, target, samples=8):
    judge = Judge(target, Pixels())
    [nearest] = nearest_samples(generator, [judge], [None], samples, progress=False)
    return judge, nearest


@pytest.mark.parametrize("space", ["w", "w+", "z", "source", "gmm"])
def test_an_image_that_the_generator_made_is_found_again(generators, space):
    """And nothing of the generator moves."""
    generator = generators[space]
    before = sha256_of_state_dict(generator.module.state_dict())
    judge, nearest = judged(generator, generator.images(0, [100]))
    where, found = found_in(generator, space, judge, nearest, 100)
    assert found.closeness.distance < nearest.closeness.distance / 10
    assert len(found.way) == 101
    assert torch.equal(where.image(found.point), found.image)
    assert torch.isfinite(found.point.where).all()
    assert sha256_of_state_dict(generator.module.state_dict()) == before


def test_a_search_from_the_nearest_sample_begins_at_its_image(generators):
    for name in ("z", "source", "gmm"):
        generator = generators[name]
        judge, nearest = judged(generator, generator.images(0, [5]), samples=8)
        assert nearest.number == 5
        fed = space_of_inputs(generator, 5, None)
        torch.testing.assert_close(fed.image(fed.sample()), nearest.image, atol=1e-5, rtol=0)
        assert search(fed, fed.sample(), judge, 2, 0, watched).closeness.distance < 1e-8
    for key in ("w", "ws"):
        for noise in ("const", "random", "none"):
            generator = styled(noise)
            space = SpaceOfLayers(generator, 5, None, key)
            made = space.image(space.sample())
            torch.testing.assert_close(made, generator.images(0, [5]), atol=1e-5, rtol=0)


def test_stylegan3_is_searched_by_the_same_w():
    config = Stylegan3GeneratorConfig(channel_base=128, w_dim=8, layers=3, margin=3)
    generator = frozen(config, Gaussian(GaussianConfig(dim=8)))
    judge, nearest = judged(generator, generator.images(0, [100]))
    _, found = found_in(generator, "w+", judge, nearest, 20)
    assert found.closeness.loss < nearest.closeness.loss
    assert found.point.noise is None


def test_a_w_for_each_layer_is_never_worse_than_the_one_that_it_begins_with():
    generator = styled()
    target = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge, nearest = judged(generator, target)
    for steps in (1, 40):
        one, each = (found_in(generator, space, judge, nearest, steps)[1] for space in ("w", "w+"))
        assert each.closeness.loss <= one.closeness.loss
    assert each.closeness.loss < 0.95 * one.closeness.loss


@pytest.mark.parametrize("space", ["w", "z", "source"])
def test_tuning_comes_nearer_by_weights_alone(generators, space):
    generator = generators[space]
    before = sha256_of_state_dict(generator.module.state_dict())
    target = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge, nearest = judged(generator, target)
    where, found = found_in(generator, space, judge, nearest, 10)
    tuned = tune(where, found.point, judge, 30, watched)
    assert tuned.closeness.loss < found.closeness.loss
    assert tuned.way[0] == pytest.approx(found.closeness.distance, rel=1e-5)
    assert sha256_of_state_dict(generator.module.state_dict()) == before
    generator.module.load_state_dict(tuned.weights)
    torch.testing.assert_close(where.image(found.point), tuned.image)


def test_a_search_is_a_function_of_its_seed():
    generator = styled()
    judge, nearest = judged(generator, generator.images(0, [100]))
    found = [found_in(generator, "w", judge, nearest, 20, seed)[1] for seed in (3, 3, 4)]
    assert torch.equal(found[0].point.where, found[1].point.where)
    assert not torch.equal(found[0].point.where, found[2].point.where)


def test_noise_stays_white():
    generator = styled("random")
    judge, nearest = judged(generator, generator.images(0, [100]))
    _, found = found_in(generator, "w", judge, nearest, 60)
    for noise in maps_of_noise(found.point.noise, generator.module.noise_sizes):
        assert float(noise.mean()) == pytest.approx(0, abs=1e-5)
        assert float(noise.square().mean()) == pytest.approx(1, abs=1e-5)
    white = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth = avg_pool2d(white, 5, stride=1, padding=2)
    assert correlation([smooth / smooth.std()]) > 50 * correlation([white])


def test_the_rate_rises_and_falls():
    """At 1000 steps by the projector of StyleGAN2-ADA: half way up, at the top, half way down, at the end."""
    assert [ramp(t) for t in (0, 0.025, 0.05, 0.75, 0.875, 1)] == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


def test_a_source_image_stays_one(generators):
    judge, nearest = judged(generators["source"], torch.ones(1, *SHAPE))
    _, found = found_in(generators["source"], "source", judge, nearest, 60)
    assert found.point.where.abs().max() <= 1


def test_each_generator_says_which_spaces_it_has(generators, patches):
    found = {name: spaces_of(generator) for name, generator in generators.items()}
    assert found == {
        "w": ["w", "w+", "z"],
        "w+": ["w", "w+", "z"],
        "z": ["z"],
        "source": ["source"],
        "gmm": ["z"],
    }
    fed = Images(ImagesConfig(path=str(patches), adapter="luma-16x32"), SHAPE, CPU)
    assert spaces_of(frozen(Stylegan2GeneratorConfig(**STYLES), fed)) == ["w", "w+", "source"]
    assert [chosen_space(generators[name], None) for name in ("w", "z", "source")] == ["w", "z", "source"]


def test_source_images_are_searched_through_an_adapter_too(patches):
    fed = Images(ImagesConfig(path=str(patches), adapter="projection"), SHAPE, CPU)
    generator = frozen(Stylegan2GeneratorConfig(**STYLES), fed)
    judge, nearest = judged(generator, generator.images(0, [100]))
    space, found = found_in(generator, "source", judge, nearest, 60)
    assert isinstance(space, SpaceOfSources)
    assert found.closeness.distance < nearest.closeness.distance / 2


@pytest.mark.parametrize("space", ["w", "w+", "z", "source"])
def test_a_point_in_a_file_makes_the_same_image(generators, space, tmp_path):
    generator = generators[space]
    judge, nearest = judged(generator, generator.images(0, [100]))
    where, found = found_in(generator, space, judge, nearest, 3)
    for name in "ab":
        write_point(tmp_path / f"{name}.npz", where, found.point, {"way": found.way})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again, point = read_point(tmp_path / "a.npz", generator)
    assert torch.equal(again.image(point), found.image)
    arrays = np.load(tmp_path / "a.npz")
    assert {arrays[name].dtype for name in arrays if name != "number"} == {np.dtype(np.float32)}
