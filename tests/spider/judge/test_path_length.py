"""Perceptual path length against vectors recorded from the public code, and its laws."""

import pytest
import torch
import torch.nn.functional as F

from cluster.world import World
from spider import precision
from spider.errors import SpiderUsageError
from spider.gan.conditions.conditions import Conditions
from spider.gan.networks.stylegan2 import Stylegan2Generator
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.gan.outputs import UNCONDITIONAL, Condition, GOut
from spider.gan.sources.config import GaussianConfig, GmmConfig
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.gaussian import Gaussian
from spider.gan.sources.gmm import Gmm
from spider.judge import path_length
from spider.judge.path_length import between, perceptual_path_length, slerp, trimmed_mean
from tests.stylegan2 import recorded_generator
from tests.vectors import assert_near, recorded

GOLDEN = recorded("path_length_metric")
CPU = torch.device("cpu")


def test_inputs_between_are_the_recorded_ones():
    found = slerp(GOLDEN["slerp__a"], GOLDEN["slerp__b"], GOLDEN["slerp__t"][:, None])
    torch.testing.assert_close(found, GOLDEN["slerp__out"], rtol=0, atol=1e-5)


def test_inputs_are_as_long_as_those_that_they_lie_between():
    a, b = GOLDEN["slerp__a"].double(), 3 * GOLDEN["slerp__b"].double()
    for t, end in ((0.0, a), (1.0, b)):
        torch.testing.assert_close(between(a, b, torch.full((len(a), 1), t, dtype=a.dtype)), end)
    middle = between(a, b, torch.full((len(a), 1), 0.5, dtype=a.dtype))
    torch.testing.assert_close(middle.norm(dim=1), (a.norm(dim=1) + b.norm(dim=1)) / 2)


class Seen(torch.nn.Module):
    """Makes images of one pixel that say how long the input was."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, source, condition):
        return GOut(self.scale * source.norm(dim=1)[:, None, None, None])


@pytest.mark.parametrize("std", [0.75, 1.0])
def test_a_network_sees_inputs_as_its_source_makes_them(std):
    source, lengths = Gaussian(GaussianConfig(dim=6, std=std)), []

    def noting(a, b):
        lengths.extend(a.flatten().tolist())
        return squares(a, b)

    generator = FrozenGenerator(Seen().double(), source, Conditions(), (1, 1, 1), CPU, training="none")
    perceptual_path_length(generator, noting, 5, 3, World.single(), space="z", sampling="end")
    expected = source.at(5, range(0, 64, 2)).double().norm(dim=1)
    assert lengths == pytest.approx(expected.tolist())


def test_nothing_lies_between_the_draws_of_a_mixture():
    source = Gmm(GmmConfig(dim=6))
    generator = FrozenGenerator(torch.nn.Linear(7, 6), source, Conditions(), (1, 8, 8), CPU, training="none")
    with pytest.raises(SpiderUsageError, match=r"space=z: source\.kind=gmm"):
        perceptual_path_length(generator, squares, 0, 2, World.single(), space="z")


def test_the_mean_leaves_out_what_the_recorded_one_does():
    assert trimmed_mean(GOLDEN["reduce__dist"]) == pytest.approx(float(GOLDEN["reduce__ppl"]), rel=1e-5)


def squares(a, b):
    return (a - b).square().mean((1, 2, 3))


def finished(module, dim=6):
    source = Gaussian(GaussianConfig(dim=dim))
    return FrozenGenerator(module.double(), source, Conditions(), (1, 8, 8), CPU, training="none")


def features(images):
    """Of the recorded network, which stands for LPIPS: two layers, scaled as there."""
    found = []
    for layer in ("c1", "c2"):
        images = F.conv2d(images, GOLDEN[f"trunk.{layer}.weight"], GOLDEN[f"trunk.{layer}.bias"], 2, 1).relu()
        scaled = images / (images.norm(dim=1, keepdim=True) + 1e-10)
        found.append(scaled.flatten(1) / (images.shape[2] * images.shape[3]) ** 0.5)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize(("epsilon", "of_max"), [(1e-2, 5e-4), (1e-4, 2e-2)])
@pytest.mark.parametrize("sampling", ["end", "full"])
@pytest.mark.parametrize("space", ["z", "w"])
def test_each_pair_is_as_far_apart_as_the_recorded_one(space, sampling, epsilon, of_max, monkeypatch):
    """Of the recorded StyleGAN2; noise, z and places are given. At 1e-4 float32 is wrong by a few thousandths."""
    given = {part: GOLDEN[f"{space}_{sampling}_eps{epsilon:g}__{part}"] for part in ("t", "z", "noise", "dist")}
    module, source, found = recorded_generator("_class3", noise="random"), Gaussian(GaussianConfig(dim=32)), []
    told = Condition(GOLDEN["c"].argmax(1), draws={"noise": given["noise"].expand(4, -1)})
    z = given["z"].unflatten(0, (2, 4)).transpose(0, 1).flatten(0, 1)  # ours alternate: 0 and 1 are a pair
    monkeypatch.setattr(path_length, "AT_ONCE", 4)
    monkeypatch.setattr(path_length.draws, "uniform", lambda *asked: given["t"])
    monkeypatch.setattr(source, "at", lambda seed, numbers: z[list(numbers)])
    generator = FrozenGenerator(module, source, Conditions(), (3, 32, 32), CPU, training="none")
    monkeypatch.setattr(generator, "condition_at", lambda seed, numbers: told)

    def noted(a, b):
        found.append((features(a) - features(b)).square().sum(1))
        return found[-1]

    mean = perceptual_path_length(
        generator, noted, 0, 4, World.single(), space=space, sampling=sampling, epsilon=epsilon
    )
    assert_near(torch.cat(found) / epsilon**2, given["dist"], of_max)
    assert mean == pytest.approx(given["dist"].mean().item(), rel=of_max)


@pytest.mark.parametrize("sampling", ["end", "full"])
@pytest.mark.parametrize("space", ["z", "w"])
def test_it_is_the_squared_slope_along_the_way(space, sampling):
    """Against differences that are written out, of three pairs; a half of the step changes little."""
    torch.manual_seed(0)
    config = Stylegan3GeneratorConfig(channel_base=32, w_dim=8, layers=3, margin=2)
    generator = finished(Stylegan3Generator(config, (6,), (1, 8, 8), UNCONDITIONAL))
    found, half = (
        perceptual_path_length(
            generator, squares, 5, 3, World.single(), space=space, sampling=sampling, epsilon=epsilon
        )
        for epsilon in (1e-5, 5e-6)
    )
    assert found == pytest.approx(half, rel=0.02)
    if sampling == "full":
        return
    told = generator.condition_at(5, [0, 2, 4])
    a, b = (generator.source.at(5, each).double() for each in ([0, 2, 4], [1, 3, 5]))
    if space == "w":
        a, b = generator.latents(a, told), generator.latents(b, told)
        images = [generator.of_latents(each, told) for each in (a, a + 1e-5 * (b - a))]
    else:
        steps = torch.tensor([0, 1e-5], dtype=torch.float64)
        images = [generator(6**0.5 * slerp(a, b, step.expand(3, 1)), told) for step in steps]  # it divides by lengths
    assert found == pytest.approx(float(squares(*images).mean()) * 1e10, rel=1e-4)


def test_half_precision_has_no_part_in_it(monkeypatch):
    """A step of 1e-4 is less than what bfloat16 rounds, which some layers would compute in on a GPU."""
    torch.manual_seed(0)
    config = Stylegan2GeneratorConfig(channel_base=64, w_dim=8, mapping_layers=1, bf16_resolutions=2)
    module = Stylegan2Generator(config, (6,), (1, 8, 8), UNCONDITIONAL)
    source = Gaussian(GaussianConfig(dim=6))
    generator = FrozenGenerator(module, source, Conditions(), (1, 8, 8), CPU, training="none")

    def measured():
        return perceptual_path_length(generator, squares, 5, 4, World.single())

    full = measured()
    assert generator.precision == "float32"
    monkeypatch.setattr(precision, "FULL_ON", ())
    assert generator.precision == "bfloat16 and float32"
    still = generator.images(5, range(4))
    assert measured() == full
    assert torch.equal(generator.images(5, range(4)), still)  # as they were, outside of it


def test_w_is_refused_where_there_is_none():
    generator = finished(torch.nn.Linear(6, 6))
    with pytest.raises(SpiderUsageError, match="space=w: this generator has no mapping network"):
        perceptual_path_length(generator, squares, 0, 2, World.single())
