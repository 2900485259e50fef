"""Path length regularisation against vectors recorded from the public code, and what it refuses."""

import pytest
import torch

from spider.config.load import make_config
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.loss import Spread, as_term
from spider.gan.networks.stylegan2_names import generator_name
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_xl_names import generator_names
from spider.gan.objectives.generator_penalties import Made
from spider.gan.objectives.path_length import PathLength, path_lengths
from spider.gan.outputs import Condition, ConditionShape, GOut
from tests.stylegan2 import recorded_generator
from tests.stylegan_xl import CLASSES, XL
from tests.stylegan_xl import load as load_xl
from tests.vectors import assert_near, recorded, weights_of

CPU = torch.device("cpu")


def reduced(given):
    """What all values come to, as in a step on one rank and without micro-batches."""
    term = as_term("p", given)
    with torch.no_grad():
        totals = {"p": term.divisor(term.total())}
    return term.about(totals, len(given.values)).share(len(given.values))


def test_two_steps_have_the_recorded_penalties_means_and_gradients(monkeypatch):
    """Of the generator with three classes, its noise given. What w_avg was before the first step is not recorded."""
    vectors = recorded("path_length")
    generator, penalty = recorded_generator("_class3", noise="random"), PathLength(0.01, CPU)
    for step in range(2):
        noise = torch.cat([vectors[f"noise{step}.{layer}"].flatten(1) for layer in range(7)], dim=1)
        monkeypatch.setattr(Address, "normal", lambda at, name, shape, step=step: vectors[f"y{step}"])
        z = vectors[f"z{step}"]
        out = generator(z, Condition(vectors[f"c{step}"].argmax(1), draws={"noise": noise}))
        values, kept = penalty(Made(z, out), Address(0, "g_reg", range(2), CPU))
        with torch.no_grad():
            penalty.stepped("g_reg", kept)
            generator.stepped("g_reg", out.keep)
        torch.testing.assert_close(penalty.mean.float(), vectors[f"mean{step}"], rtol=1e-5, atol=0)
        torch.testing.assert_close((kept["lengths"] - penalty.mean).square().float(), vectors[f"penalty{step}"])
        if step:
            assert_near(generator.w_avg, vectors["w_avg1"], 1e-6)
        generator.w_avg.copy_(vectors["w_avg0"])
        loss = reduced(values)
        torch.testing.assert_close(loss, vectors[f"penalty{step}"].mean())
        expected = weights_of(vectors, generator_name, f"grad{step}.")
        assert len(expected) == 9
        parameters = [generator.get_parameter(name) for name in expected]
        for name, slope in zip(expected, torch.autograd.grad(4 * 2 * loss, parameters), strict=True):
            assert_near(slope, expected[name])


def test_two_steps_of_stylegan_xls_stem_are_as_recorded(monkeypatch):
    """Of half of 4 images, with classes, and without the factor of the interval, as there."""
    vectors = recorded("stylegan_xl_path_length")
    config = Stylegan3GeneratorConfig(**{**XL, "layers": 6})
    generator = Stylegan3Generator(config, (8,), (3, 16, 16), ConditionShape(CLASSES))
    weights, penalty = weights_of(vectors), PathLength(0.01, CPU)
    name_of = generator_names(weights, [len(generator.synthesis.layers)])
    load_xl(generator, weights)
    for step in range(2):
        monkeypatch.setattr(Address, "normal", lambda at, name, shape, step=step: vectors[f"y{step}"])
        out = generator(vectors[f"z{step}"][:2], Condition(vectors[f"label{step}"][:2]))
        values, kept = penalty(Made(vectors[f"z{step}"], out), Address(0, "g_reg", range(2), CPU))
        with torch.no_grad():
            penalty.stepped("g_reg", kept)
        torch.testing.assert_close(penalty.mean.float(), vectors[f"mean{step}"], rtol=1e-5, atol=0)
        found = (kept["lengths"] - penalty.mean).square().float()
        torch.testing.assert_close(found, vectors[f"penalty{step}"], rtol=1e-4, atol=0)
        loss = 2 * reduced(values)
        torch.testing.assert_close(loss, vectors[f"reg{step}"].mean(), rtol=1e-4, atol=0)
        expected = weights_of(vectors, name_of, f"grad{step}__")
        parameters = [generator.get_parameter(name) for name in expected]
        for (name, slope), found in zip(expected.items(), torch.autograd.grad(loss, parameters), strict=True):
            assert_near(found[:CLASSES] if "class_vectors" in name else found, slope[: len(found)])


def test_a_spread_of_share_one_is_the_variance():
    values = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    found, expected = reduced(Spread(values, 1.0)), values.var(correction=0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, values)[0] for each in (found, expected)))
    assert reduced(Spread(torch.zeros(4), 0.5)) == 0


def test_only_a_generator_that_has_latents(monkeypatch):
    for weight in ("2", "{linear: [0, 2], until_kimg: 1}"):
        with pytest.raises(SpiderUsageError, match=r"path_length_weight needs .* found generator\.kind=dcgan"):
            make_config({}, [f"g_penalties.path_length_weight={weight}"])
    images = torch.ones(2, 1, 4, 4)
    for latents, found in ((None, "none"), (torch.ones(2, 3), r"shape \[2, 3\]")):
        with pytest.raises(SpiderUsageError, match=f"path_length_weight needs .* found {found}"):
            PathLength(0.01, CPU)(Made(images, GOut(images, latents)), Address(0, "g_reg", range(2), CPU))


def test_a_lost_graph_is_an_error():
    weight = torch.ones(3, requires_grad=True)
    latents = torch.ones(2, 5, 3, requires_grad=True)
    y = torch.ones(2, 1, 4, 4)

    def made(weight):
        return (latents * weight).sum((1, 2)).view(2, 1, 1, 1).expand(2, 1, 4, 4)

    assert path_lengths(made(weight), latents, y).requires_grad
    for images in (made(weight.detach()), made(weight).detach()):
        with pytest.raises(RuntimeError):
            path_lengths(images, latents, y)
