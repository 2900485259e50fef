"""FastGAN's generator against vectors recorded from the public code."""

import pytest
import torch
from torch import nn

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.networks.fastgan import FastganGenerator
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig, FastganGeneratorConfig
from spider.gan.networks.fastgan_discriminator import FastganDiscriminator
from spider.gan.networks.fastgan_names import generator_name
from spider.gan.networks.norm import GlobalBatchNorm
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, with_draws
from tests.vectors import assert_near, recorded, weights_of

SINGLE = World.single()
FORMS = ("projected", "lite", "original")


def recorded_generator(name, form, ngf, dim, side, classes, train):
    """In training the public code makes a round of each power iteration before it uses the weights."""
    config = FastganGeneratorConfig(form=form, ngf=ngf)
    generator = FastganGenerator(config, (dim,), (3, side, side), ConditionShape(classes), SINGLE).train(train)
    layers = {each: config.layers(each) for each in config.sides((3, side, side))[1:]}
    vectors = recorded(f"fastgan_{name}")
    generator.load_state_dict(weights_of(vectors, lambda key: generator_name(key, layers)))
    if train:
        generator.stepped("g_main", {})
    return generator, vectors, layers


def assert_moved(generator, vectors, layers):
    state = generator.state_dict()
    for name, moved in weights_of(vectors, lambda key: generator_name(key, layers), "after_train__").items():
        assert_near(state[name], moved)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_original_makes_both_recorded_images(mode):
    generator, vectors, layers = recorded_generator("original_g256", "original", 4, 16, 256, 0, mode == "train")
    noise = torch.cat([vectors[f"{mode}__noise{i}_randn"].flatten(1) for i in range(6)], 1)
    made = generator(vectors["z"], Condition(draws={"noise": noise}))
    assert_near(made.images[:, :, ::16, ::16], vectors[f"{mode}__img_every4"])
    assert_near(made.sizes["small"][:, :, ::8, ::8], vectors[f"{mode}__img128_every2"])
    if mode == "train":
        assert_moved(generator, vectors, layers)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_smaller_one_with_classes_makes_the_recorded_images(mode):
    generator, vectors, layers = recorded_generator("lite_class3_g128", "lite", 6, 12, 128, 3, mode == "train")
    z = vectors["z"].clone().requires_grad_()
    images = generator(z, Condition(vectors["c"].argmax(1))).images
    assert_near(images[:, :, ::8, ::8], vectors[f"{mode}__img_every2"])
    (slope,) = torch.autograd.grad(images.square().mean(), z)
    assert_near(slope, vectors[f"{mode}__grad_z_of_mean_square"])
    if mode == "train":
        assert_moved(generator, vectors, layers)


def test_the_default_makes_the_recorded_images():
    generator, vectors, _ = recorded_generator("g128", "projected", 8, 24, 128, 0, train=False)
    assert_near(generator(vectors["z"], Condition()).images[:, :, ::4, ::4], vectors["img_every4"], 1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("side", "channels", "classes"), [(8, 1, 0), (32, 3, 2), (64, 3, 0)])
def test_every_form_at_sizes_that_nobody_published(form, side, channels, classes):
    config = FastganGeneratorConfig(form=form, ngf=2)
    generator = FastganGenerator(config, (6,), (channels, side, side), ConditionShape(classes), SINGLE)
    z = torch.randn(4, 6)
    labels = torch.tensor([0, 1, 1, 0]) if classes else None
    made = generator(z, with_draws(Condition(labels), generator, 0, "test", range(4), z))
    assert made.images.shape == (4, channels, side, side)
    assert {name: each.shape[2] for name, each in made.sizes.items()} == (
        {"small": side // 2} if form == "original" else {}
    )
    (made.images.square().sum() + sum(each.sum() for each in made.sizes.values())).backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_noise_is_of_each_image_and_of_the_layers_that_have_it():
    config = FastganGeneratorConfig(form="original", ngf=2)
    generator = FastganGenerator(config, (6,), (3, 32, 32), UNCONDITIONAL, SINGLE).eval()
    assert generator.noises == 2 * (8**2 + 32**2)
    z, noise = torch.randn(2, 6), torch.zeros(2, generator.noises)
    noise[1, -1] = 1.0  # the lower right corner of the last layer
    with torch.no_grad():
        generator.blocks["32"].layers[1].noise_strength.fill_(1.0)
        plain, noisy = (
            generator(z, Condition(draws={"noise": each})).images for each in (torch.zeros_like(noise), noise)
        )
    changed = (noisy - plain).abs().amax(1)
    assert changed[0].max() == 0
    assert changed[1, -2:, -2:].max() == changed[1].max() > 0
    assert changed[1, :-2].max() == changed[1, :, :-2].max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_only_the_original_begins_by_normal_laws(form):
    """Convolutions N(0, 0.02), scales N(1, 0.02); what the source brings stays as it is."""
    frontend = nn.Conv2d(1, 4, 3)
    brought = frontend.weight.clone()
    config = FastganGeneratorConfig(form=form, ngf=16)
    generator = FastganGenerator(config, (256,), (3, 64, 64), UNCONDITIONAL, SINGLE, frontend)
    assert torch.equal(frontend.weight, brought)
    assert_begun(generator, normal=form == "original")
    layer = generator.start
    weight = layer.weight.transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.dot(layer.u, weight @ layer.v), torch.linalg.svdvals(weight)[0], rtol=0.05, atol=0)


def test_the_discriminator_and_its_decoders_begin_by_normal_laws():
    discriminator = FastganDiscriminator(FastganDiscriminatorConfig(ndf=16), (3, 64, 64), SINGLE)
    assert_begun(discriminator, normal=True)
    assert_begun(discriminator.decoders(16, 64), normal=True)


def assert_begun(network, normal):
    """Within five standard deviations of what so many numbers of the laws may have."""
    state, norms = network.state_dict(), [each for each in network.modules() if isinstance(each, GlobalBatchNorm)]
    kernels = [each for each in state.values() if each.dim() == 4 and each.numel() > 4000]
    assert len(kernels) > 3
    for each in kernels:
        assert (abs(each.std() - 0.02) < 5 * 0.02 / (2 * each.numel()) ** 0.5) == normal, each.shape
    assert not any(each.bias.any() for each in norms)
    scales = torch.cat([each.weight.detach() for each in norms])
    assert len(scales) > 100
    spread = 0.02 if normal else 0
    assert abs(scales.mean() - 1) <= 5 * spread / len(scales) ** 0.5
    assert abs(scales.std() - spread) <= 5 * spread / (2 * len(scales)) ** 0.5


@pytest.mark.parametrize("side", [4, 2048, 48])
def test_other_sides_are_refused(side):
    with pytest.raises(SpiderUsageError, match=rf"found {side}"):
        FastganGeneratorConfig().sides((3, side, side))
