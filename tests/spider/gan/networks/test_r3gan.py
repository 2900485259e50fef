"""R3GAN's networks against vectors recorded from the authors' code, and their shapes."""

import pytest
import torch

from spider.errors import SpiderUsageError
from spider.gan.networks.r3gan import R3ganDiscriminator, R3ganGenerator
from spider.gan.networks.r3gan_config import R3ganConfig
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape
from tests.vectors import recorded

VECTORS = recorded("r3gan_32_class5")
LABELS = Condition(VECTORS["c"].argmax(1))
IN_BLOCK = {
    "LinearLayer1.Layer.weight": "enter.weight",
    "LinearLayer2.Layer.weight": "mix.weight",
    "LinearLayer3.Layer.weight": "leave.weight",
    "NonLinearity1.Bias": "enter_bias",
    "NonLinearity2.Bias": "mix_bias",
    "LinearLayer.Layer.weight": "change.weight",
}
ELSEWHERE = {
    "EmbeddingLayer.weight": "embedding.weight",
    "ExtractionLayer.Layer.weight": "from_image.weight",
    "AggregationLayer.Layer.weight": "to_image.weight",
}
AT_4_PX = {"Basis": "basis", "Basis.weight": "basis.weight", "LinearLayer.weight": "dense.weight"}


class Recorded(R3ganConfig):
    """The shape of the recorded networks."""

    blocks: int = 2
    embedding_dim: int = 8

    def plan(self, image_shape, role):
        return [32, 24, 16, 16], [4, 4, 4, 4]


def weights(role):
    """The recorded weights under our names. The authors count the generator's basis as a layer of its first stage."""
    found = {}
    for name, tensor in VECTORS.items():
        player, _, there = name.partition(".")
        if player != role:
            continue
        if there in ELSEWHERE:
            # The authors multiply a matrix [dim, classes] by a class as a unit vector
            found[ELSEWHERE[there]] = tensor.T if "Embedding" in there else tensor
            continue
        _, stage, _, layer, rest = there.split(".", 4)
        if rest in AT_4_PX:
            found[AT_4_PX[rest]] = tensor
        else:
            first = role == "G" and stage == "0"
            found[f"stages.{stage}.{int(layer) - first}.{IN_BLOCK[rest]}"] = tensor
    return found


def test_generator_makes_the_recorded_images():
    generator = R3ganGenerator(Recorded(), (24,), (3, 32, 32), ConditionShape(5))
    generator.load_state_dict(weights("G"))
    images = generator(VECTORS["z"], LABELS).images
    torch.testing.assert_close(images, VECTORS["img"], rtol=1e-5, atol=1e-4)


def test_discriminator_gives_the_recorded_logits_and_r1():
    discriminator = R3ganDiscriminator(Recorded(), (3, 32, 32), ConditionShape(5))
    discriminator.load_state_dict(weights("D"))
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


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 32, 64), (3, 2, 2)])
def test_other_shapes_are_refused(shape):
    for role in ("generator", "discriminator"):
        said = rf"{role}\.kind=r3gan is for squares of 4, 8, 16, ... px, found {shape[2]}x{shape[1]}"
        with pytest.raises(SpiderUsageError, match=said):
            R3ganConfig().plan(shape, role)
