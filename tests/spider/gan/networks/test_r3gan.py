"""R3GAN's networks against vectors recorded from the authors' code, and their shapes."""

import pytest
import torch
from pydantic import ValidationError

from spider.errors import SpiderUsageError
from spider.gan.networks.r3gan import R3ganDiscriminator, R3ganGenerator
from spider.gan.networks.r3gan_config import R3ganConfig
from spider.gan.networks.r3gan_names import CLASS_VECTORS, discriminator_name, generator_name
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape
from tests.vectors import recorded, weights_of

VECTORS = recorded("r3gan_32_class5")
LABELS = Condition(VECTORS["c"].argmax(1))
SHAPE = R3ganConfig(channels=(32, 24, 16, 16), groups=(4, 4, 4, 4), blocks=2, embedding_dim=8)


def weights(role, name_of):
    """The recorded weights under our names."""
    found = weights_of(VECTORS, name_of, f"{role}.")
    return found | {CLASS_VECTORS: found[CLASS_VECTORS].T}


def test_generator_makes_the_recorded_images():
    generator = R3ganGenerator(SHAPE, (24,), (3, 32, 32), ConditionShape(5))
    generator.load_state_dict(weights("G", generator_name))
    images = generator(VECTORS["z"], LABELS).images
    torch.testing.assert_close(images, VECTORS["img"], rtol=1e-5, atol=1e-4)


def test_discriminator_gives_the_recorded_logits_and_r1():
    discriminator = R3ganDiscriminator(SHAPE, (3, 32, 32), ConditionShape(5))
    discriminator.load_state_dict(weights("D", discriminator_name))
    real = VECTORS["real"].clone().requires_grad_()
    logits = discriminator(real, LABELS).logits
    torch.testing.assert_close(logits[:, 0], VECTORS["logits_real"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        discriminator(VECTORS["img"], LABELS).logits[:, 0], VECTORS["logits_fake"], rtol=1e-4, atol=1e-5
    )
    (slope,) = torch.autograd.grad(logits.sum(), real)
    torch.testing.assert_close(slope.square().sum((1, 2, 3)), VECTORS["r1"], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("side", [4, 8, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_power_of_two_and_any_channels(side, channels):
    config = R3ganConfig(width=0.02, blocks=1)
    generator = R3ganGenerator(config, (10,), (channels, side, side), UNCONDITIONAL)
    images = generator(torch.randn(2, 10), Condition()).images
    assert images.shape == (2, channels, side, side)
    assert R3ganDiscriminator(config, (channels, side, side), UNCONDITIONAL)(images, Condition()).logits.shape == (2, 1)


def test_channels_are_the_authors():
    assert R3ganConfig().plan((3, 256, 256), "generator") == ([768] * 4 + [384, 192, 96], [96] * 4 + [48, 24, 12])
    assert R3ganConfig().plan((3, 32, 32), "discriminator") == ([768] * 4, [96] * 4)


def test_channels_and_groups_are_listed():
    of_imagenet = R3ganConfig(channels=(1536,) * 5, groups=(96,) * 5)
    assert of_imagenet.plan((3, 64, 64), "generator") == ([1536] * 5, [96] * 5)
    assert R3ganConfig(channels=(40, 4)).plan((3, 8, 8), "generator") == ([40, 4], [5, 1])
    assert R3ganConfig(width=0.1, groups=(4, 2)).plan((3, 8, 8), "generator") == ([80, 80], [4, 2])


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"channels": (32, 16)}, r"discriminator\.channels=\[32, 16\] must list 3 numbers.* from 4 to 16 px"),
        ({"channels": (32, 16, 8), "width": 0.5}, r"discriminator\.width=0\.5 multiplies no discriminator\.channels"),
        ({"groups": (4,)}, r"discriminator\.groups=\[4\] must list 3 numbers"),
        ({"channels": (32, 25, 16), "groups": (4, 4, 4)}, "25 channels at 8 px are 50 .* which 4 groups do not divide"),
    ],
)
def test_lists_that_do_not_fit_are_refused(lists, said):
    with pytest.raises(SpiderUsageError, match=said):
        R3ganConfig(**lists).plan((3, 16, 16), "discriminator")


@pytest.mark.parametrize("lists", [{"channels": (0,)}, {"groups": (-1,)}])
def test_lists_of_no_network_are_refused(lists):
    with pytest.raises(ValidationError):
        R3ganConfig(**lists)


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 32, 64), (3, 2, 2)])
def test_other_shapes_are_refused(shape):
    for role in ("generator", "discriminator"):
        said = rf"{role}\.kind=r3gan is for squares of 4, 8, 16, ... px, found {shape[2]}x{shape[1]}"
        with pytest.raises(SpiderUsageError, match=said):
            R3ganConfig().plan(shape, role)
