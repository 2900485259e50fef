"""Networks: sizes, the shared decoder, and batch normalisation over ranks that equals one process's."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.networks.build import build_discriminator, build_generator
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig
from spider.gan.networks.norm import GlobalBatchNorm
from spider.gan.networks.spectral import SpectralConv, SpectralLinear
from spider.gan.outputs import Condition, ConditionShape
from spider.gan.sources.config import GaussianConfig
from spider.gan.sources.gaussian import Gaussian

SINGLE = World.single()


def generator(image_shape, input_shape=None, **settings):
    source = Gaussian(GaussianConfig(dim=10))
    if input_shape is not None:
        source.shape = input_shape
    return build_generator(DcganGeneratorConfig(**settings), source, image_shape, SINGLE, seed=0)


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_generators_make_images_of_the_targets_shape(size, channels):
    shape = (channels, size, size)
    for input_shape in ((10,), shape):
        images = generator(shape, input_shape, width=0.05)(torch.randn(2, *input_shape), Condition()).images
        assert images.shape == (2, *shape)
        assert images.abs().max() <= 1
    discriminator = build_discriminator(DcganDiscriminatorConfig(width=0.05), shape, SINGLE, seed=0)
    assert discriminator(images, Condition()).logits.shape == (2, 1)


def test_vector_and_image_sources_share_the_decoder():
    vector, image = generator((1, 28, 28)), generator((1, 28, 28), (1, 28, 28))
    shapes = [[p.shape for p in network.decoder.parameters()] for network in (vector, image)]
    assert shapes[0] == shapes[1]


def test_mnist_layout_is_the_authors():
    """Dense 100 -> 7 x 7 x 256, then 128, 64, 32, 1, 1 with 5 x 5 kernels: counted by hand."""
    network = build_generator(DcganGeneratorConfig(), Gaussian(GaussianConfig()), (1, 28, 28), SINGLE, 0)
    weights = 100 * 7 * 7 * 256 + 25 * (256 * 128 + 128 * 64 + 64 * 32 + 32 * 1 + 1 * 1)
    norms = 2 * (256 + 128 + 64 + 32 + 1)
    assert sum(p.numel() for p in network.parameters()) == weights + norms
    network = build_discriminator(DcganDiscriminatorConfig(), (1, 28, 28), SINGLE, 0)
    convolutions = 25 * (64 + 64 * 64 + 64 * 128) + 64 + 64 + 128
    assert sum(p.numel() for p in network.parameters()) == convolutions + (2048 * 50 + 50) + 51


def test_celeba_layout_is_the_authors():
    """Dense 100 -> 4 x 4 x 1024 without normalisation, then 512, 256, 128, 3; its discriminator normalises first."""
    network = build_generator(DcganGeneratorConfig(), Gaussian(GaussianConfig()), (3, 64, 64), SINGLE, 0)
    weights = 100 * 4 * 4 * 1024 + 25 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    assert sum(p.numel() for p in network.parameters()) == weights + 2 * (512 + 256 + 128)
    network = build_discriminator(DcganDiscriminatorConfig(norm="batch"), (3, 64, 64), SINGLE, 0)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == ["Conv2d", "GlobalBatchNorm", "LeakyReLU"] * 4 + ["Flatten", "Linear"]
    mnist = build_discriminator(DcganDiscriminatorConfig(norm="batch"), (1, 28, 28), SINGLE, 0)
    assert [type(layer).__name__ for layer in mnist.layers][:3] == ["Conv2d", "LeakyReLU", "GlobalBatchNorm"]


def test_the_discriminator_of_sn_gan_has_the_published_layers():
    """Of CIFAR-10 and of STL-10, and each layer with a norm of 1."""
    for side, before_end in ((32, 4), (48, 6)):
        network = build_discriminator(
            DcganDiscriminatorConfig(layout="sngan", norm="spectral"), (3, side, side), SINGLE, seed=0
        )
        layers = [layer for layer in network.modules() if isinstance(layer, SpectralConv | SpectralLinear)]
        *convs, last = layers
        widths = [3, 64, 64, 128, 128, 256, 256, 512]
        assert [(conv.in_channels, conv.out_channels) for conv in convs] == [*pairwise(widths)]
        assert [(conv.kernel_size[0], conv.stride[0]) for conv in convs] == [*[(3, 1), (4, 2)] * 3, (3, 1)]
        assert last.weight.shape == (1, 512 * before_end**2)
        assert network(torch.zeros(2, 3, side, side), Condition()).logits.shape == (2, 1)
        for layer in layers:
            largest = torch.linalg.matrix_norm(layer.divided().flatten(1), ord=2)
            torch.testing.assert_close(largest, torch.ones(()), rtol=0.05, atol=0)
        assert {each.negative_slope for each in network.modules() if isinstance(each, nn.LeakyReLU)} == {0.1}


def test_a_side_that_does_not_halve_is_refused_by_name():
    with pytest.raises(SpiderUsageError, match=r"generator\.kind=dcgan .* a side of 50 px must be a multiple of 8"):
        generator((3, 50, 50))


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = generator((1, 8, 8)).state_dict()
    torch.manual_seed(2)
    second = generator((1, 8, 8)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def normalised(world, x, weight):
    """On a rank: outputs, input gradients, squared-gradient penalty's gradient, running statistics."""
    torch.manual_seed(0)
    layer = GlobalBatchNorm(3, world).double()
    head = nn.Conv2d(3, 1, 3).double()
    mine = x[world.rank :: world.size].clone().requires_grad_()
    y = layer(mine)
    (slope,) = torch.autograd.grad((head(y).square() * weight).sum(), mine, create_graph=True)
    parameters = [*layer.parameters(), *head.parameters()]
    second = torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)
    second = [
        world.all_reduce_sum(torch.zeros_like(p) if g is None else g) for p, g in zip(parameters, second, strict=True)
    ]
    return y.detach(), slope.detach(), second, layer.running_mean, layer.running_var


@pytest.mark.parametrize("size", [2, 4])
def test_batch_norm_over_ranks_is_that_of_one_process(ranks, size):
    """Values, gradients, and gradients of gradients, in float64."""
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64) * 3 + 1
    whole = normalised(SINGLE, x, 0.3)
    for rank, found in enumerate(ranks(size).run(normalised, x, 0.3)):
        torch.testing.assert_close(found[0], whole[0][rank::size])
        torch.testing.assert_close(found[1], whole[1][rank::size])
        torch.testing.assert_close(found[2], whole[2])
        torch.testing.assert_close(found[3], whole[3])
        torch.testing.assert_close(found[4], whole[4])


def test_batch_norm_in_evaluation_uses_what_it_has_seen():
    layer = GlobalBatchNorm(2, SINGLE, momentum=1.0)
    x = torch.randn(64, 2, 4, 4) * 2 + 5
    layer(x)
    assert abs(float(layer.eval()(x).detach().mean())) < 1e-3


@pytest.mark.parametrize("settings", [{}, {"conditioning": "concat"}, {"norm": "none"}], ids=["norm", "concat", "none"])
@pytest.mark.parametrize("input_shape", [(10,), (1, 16, 16)], ids=["vectors", "images"])
def test_both_players_heed_the_class_alone(settings, input_shape):
    """Equal inputs of two classes differ; an image does not see the classes of the others of its batch."""
    told, source = ConditionShape(classes=3), Gaussian(GaussianConfig(dim=10))
    source.shape = input_shape
    network = build_generator(DcganGeneratorConfig(width=0.05, **settings), source, (1, 16, 16), SINGLE, 0, told)
    critic = build_discriminator(DcganDiscriminatorConfig(width=0.05), (1, 16, 16), SINGLE, 0, told)
    for parameter in network.parameters():  # scales and shifts begin alike for all classes
        torch.nn.init.normal_(parameter)
    network.eval()
    inputs, labels = torch.randn(1, *input_shape).expand(3, *input_shape), Condition(torch.tensor([0, 1, 0]))
    images = network(inputs, labels).images
    torch.testing.assert_close(images[0], images[2])
    assert not torch.allclose(images[0], images[1])
    logits = critic(images[:1].expand(3, -1, -1, -1), labels).logits
    torch.testing.assert_close(logits[0], logits[2])
    assert not torch.allclose(logits[0], logits[1])


def test_the_discriminators_logit_is_a_projection():
    """w h + e(y) h + b (Miyato & Koyama 2018), with h what the last layer takes."""
    critic = build_discriminator(DcganDiscriminatorConfig(width=0.1), (1, 8, 8), SINGLE, 0, ConditionShape(classes=4))
    images, label = torch.randn(5, 1, 8, 8), 2
    h, last = critic.layers[:-1](images), critic.layers[-1]
    expected = h @ (last.weight[0] + critic.embedding.weight[label]) + last.bias
    torch.testing.assert_close(critic(images, Condition(torch.full((5,), label))).logits[:, 0], expected)
