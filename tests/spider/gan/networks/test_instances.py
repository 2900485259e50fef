"""Networks that are told an instance: IC-GAN's StyleGAN2 against recorded vectors, and all others by what they do."""

from __future__ import annotations

import pytest
import torch
import yaml

from cluster.world import World
from spider.config.load import make_config, preset_text
from spider.errors import SpiderUsageError
from spider.gan.networks.build import build_discriminator, build_generator
from spider.gan.networks.stylegan2 import Stylegan2Discriminator, Stylegan2Generator
from spider.gan.networks.stylegan2_names import discriminator_name, generator_name
from spider.gan.networks.stylegan_config import Stylegan2DiscriminatorConfig, Stylegan2GeneratorConfig
from spider.gan.outputs import Condition, ConditionShape, with_draws
from spider.runs.generator import open_source
from tests.vectors import assert_near, recorded, weights_of

SINGLE = World.single()
TOLD = ConditionShape(features=40)
SMALL = {"channel_base": 512, "channel_max": 24, "conv_clamp": None}
SMALLEST = {"channel_base": 512, "channel_max": 8}
# Kinds with what makes them small, of the generator and of the discriminator
PAIRS = {
    "dcgan": ({"width": 0.05}, {"width": 0.05}),
    "mlp": ({"hidden": 8}, {"hidden": 8}),
    "r3gan": ({"width": 0.02}, {"width": 0.02}),
    "stylegan2": ({**SMALLEST, "w_dim": 8, "style_mixing": 0}, SMALLEST),
    "stylegan3": ({**SMALLEST, "w_dim": 8, "layers": 4}, None),
    "fastgan": ({"ngf": 2}, None),
    "biggan": ({"ch": 2, "hierarchical": False}, {"ch": 2}),
    "projected": (None, {"width": 0.05, "mixed_channels": 4}),
}


def test_icgans_stylegan2_makes_the_recorded_images_and_logits():
    vectors = recorded("icgan_stylegan2_32")
    config = Stylegan2GeneratorConfig(**SMALL, w_dim=32, mapping_layers=2, noise="const")
    generator = Stylegan2Generator(config, (32,), (3, 32, 32), TOLD).eval()
    generator.load_state_dict(weights_of(vectors, generator_name, "G."))
    condition = Condition(features=vectors["h"])
    made = generator(vectors["z"], condition)
    assert_near(made.latents, vectors["w"], 1e-5)
    assert_near(made.images, vectors["img"], 1e-5)
    discriminator = Stylegan2Discriminator(Stylegan2DiscriminatorConfig(**SMALL), (3, 32, 32), TOLD, SINGLE)
    discriminator.load_state_dict(weights_of(vectors, discriminator_name, "D."))
    for which, images in (("real", vectors["real"]), ("fake", vectors["img"])):
        assert_near(discriminator(images, condition).logits, vectors[f"logits_{which}"], 1e-5)


# Presets with the published side, features, and millions of parameters of G and D
PUBLISHED = {
    "icgan/stylegan2-coco128": (128, 2048, 24.26, 27.29),
    "icgan/stylegan2-coco256": (256, 2048, 24.50, 27.41),
    "icgan/stylegan2-coco128-untold": (128, 0, 22.95, 23.88),
    "icgan/stylegan2-coco256-untold": (256, 0, 23.19, 24.00),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_stylegan2_has_as_many_parameters_as_published(name):
    side, features, of_g, of_d = PUBLISHED[name]
    settings = yaml.safe_load(preset_text(name))
    config = make_config({**settings, "condition": {"kind": "none"}})
    told, shape = ConditionShape(features=features), (3, side, side)
    with torch.device("meta"):
        made = (
            Stylegan2Generator(config.generator, (512,), shape, told),
            Stylegan2Discriminator(config.discriminator, shape, told, SINGLE),
        )
    counts = [sum(each.numel() for each in network.parameters()) for network in made]
    assert [round(count / 1e6, 2) for count in counts] == [of_g, of_d]


def networks(kind, told, side):
    source = open_source(
        make_config({"source": {"kind": "gaussian", "dim": 6}}).source, (3, side, side), torch.device("cpu")
    )
    made = {}
    for role, settings in zip(("generator", "discriminator"), PAIRS[kind], strict=True):
        if settings is None:
            continue
        config = getattr(make_config({role: {"kind": kind, **settings}}), role)
        if role == "generator":
            made[role] = build_generator(config, source, (3, side, side), SINGLE, 0, told)
        else:
            made[role] = build_discriminator(config, (3, side, side), SINGLE, 0, told)
    return made


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("kind", PAIRS)
def test_what_they_do_depends_on_the_instance_and_the_class(kind, classes):
    told = ConditionShape(classes=classes, features=5)
    features = torch.nn.functional.normalize(torch.randn(4, 5), dim=1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 1]) if classes else None
    side = 32 if kind == "biggan" else 16
    for role, network in networks(kind, told, side).items():
        given = torch.randn(4, 6) if role == "generator" else torch.randn(4, 3, side, side)
        for parameter in network.parameters():  # of layers that begin with 0
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        condition = with_draws(Condition(labels, features), network, 0, "test", range(4), given)
        out = network(given, condition)
        values = (out.images if role == "generator" else out.logits).flatten(1)
        (slope,) = torch.autograd.grad(values[2].square().sum(), features)
        assert slope[2].abs().max() > 0
        if classes:
            shares = torch.nn.functional.one_hot(labels, 3).float()
            again = network(given, Condition(shares, features, draws=condition.draws))
            torch.testing.assert_close(
                (again.images if role == "generator" else again.logits).flatten(1), values, rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize(("role", "kind"), [("discriminator", "fastgan"), ("discriminator", "poly")])
def test_those_that_cannot_be_told_say_so(role, kind):
    overrides = {role: {"kind": kind}, "condition": {"kind": "instance", "bank": "b.safetensors"}}
    with pytest.raises(SpiderUsageError, match=rf"{role}.kind={kind} cannot be told an instance"):
        make_config(overrides)
