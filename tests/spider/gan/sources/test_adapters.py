"""Adapters: the values of the published transforms, and what a learned one begins as."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from cluster.world import World
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.networks.build import build_generator
from spider.gan.networks.dcgan_config import DcganGeneratorConfig
from spider.gan.networks.r3gan_config import R3ganConfig
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.gan.outputs import Condition
from spider.gan.sources.adapters import build_adapter
from spider.gan.sources.config import ADAPTERS, ImagesConfig
from spider.runs.generator import open_source

SIZES = {"luma-16x32": (16, 32), "luma-23x23": (23, 23)}
CPU = torch.device("cpu")


def images(*shape, count=3):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("shape", "count"), [((3, 32, 32), 3), ((3, 32, 32), 1), ((1, 9, 50), 2), ((3, 4, 4), 1)])
def test_luma_is_the_published_transform(name, shape, count):
    """The mean over RGB, resized bilinearly without antialiasing, row by row, of which 512 numbers are taken."""
    given = images(*shape, count=count)
    grey = given.sum(1, keepdim=True) / shape[0]
    small = resize(grey, list(SIZES[name]), InterpolationMode.BILINEAR, antialias=False)
    adapter = build_adapter(name, shape)
    assert adapter.shape == (512,)
    assert not adapter.state_dict()
    torch.testing.assert_close(adapter(given), small.reshape(count, -1)[:, :512], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 20), (3, 32, 80)])
def test_a_projection_is_a_linear_layer_on_at_most_32_px(shape):
    torch.manual_seed(0)
    adapter, given = build_adapter("projection", shape), images(*shape)
    small = resize(given, [min(32, shape[1]), min(32, shape[2])], InterpolationMode.BILINEAR, antialias=True).flatten(1)
    weight = adapter.weight.detach()
    assert weight.shape == (512, small.shape[1])
    assert float(weight.mean()) == pytest.approx(0, abs=0.02)
    assert float(weight.std()) == pytest.approx(1, abs=0.02)
    assert not adapter.bias.any()
    torch.nn.init.normal_(adapter.bias)
    expected = small @ weight.T / small.shape[1] ** 0.5 + adapter.bias
    torch.testing.assert_close(adapter(given), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_vector_is_of_its_image_alone_and_differentiable_twice(name):
    adapter, given = build_adapter(name, (3, 40, 36)).double(), images(3, 40, 36).double().requires_grad_()
    vectors = adapter(given)
    torch.testing.assert_close(adapter(given[1:2]), vectors[1:2])
    (slope,) = torch.autograd.grad(vectors.sin().sum(), given, create_graph=True)
    (again,) = torch.autograd.grad(slope.square().sum(), given)
    assert again.abs().sum() > 0


NETWORKS = [
    Stylegan2GeneratorConfig(channel_base=64, w_dim=8, mapping_layers=1, noise="none"),
    R3ganConfig(width=0.02, blocks=1),
    DcganGeneratorConfig(width=0.05),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.kind)
@pytest.mark.parametrize("name", ADAPTERS)
def test_any_generator_is_fed_images_through_an_adapter(patches, network, name):
    """Images of their own size and channels, and only a projection has weights, which train with the generator."""
    config = ImagesConfig(path=str(patches), adapter=name)
    source = open_source(config, (1, 8, 8), CPU)
    assert source.shape == (3, 16, 16)
    generator = build_generator(network, source, (1, 8, 8), World.single(), 0)
    made = generator.eval()(source.at(0, range(2)), Condition()).images
    assert made.shape == (2, 1, 8, 8)
    trained = [
        name for name, each in generator.named_parameters() if name.startswith("frontend") and each.requires_grad
    ]
    assert trained == (["frontend.weight", "frontend.bias"] if name == "projection" else [])
    assert source.identity != open_source(config.model_copy(update={"adapter": None}), (3, 16, 16), CPU).identity


@pytest.mark.parametrize("network", NETWORKS[:2], ids=lambda network: network.kind)
def test_a_network_of_vectors_refuses_images(patches, network):
    why = f"generator.kind={network.kind} takes vectors"
    for kind in (f"source.kind=images source.path={patches}", "source.kind=generator source.run=RUN"):
        with pytest.raises(SpiderUsageError, match=f"gives images, and {why}.* one of {', '.join(ADAPTERS)}"):
            make_config({"data": {"path": "d"}}, [f"generator.kind={network.kind}", *kind.split()])
    source = open_source(ImagesConfig(path=str(patches)), (3, 16, 16), CPU)
    with pytest.raises(SpiderUsageError, match=rf"{why}, and its source gives images \[3, 16, 16\]"):
        build_generator(network, source, (3, 16, 16), World.single(), 0)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["source.kind=gaussian", "source.adapter=luma-16x32"], r"source\.adapter"),
        (["source.kind=images", "source.path=d", "source.adapter=luma"], r"source\.adapter.*luma-16x32"),
    ],
)
def test_an_adapter_of_vectors_or_of_no_such_name_is_refused(overrides, why):
    with pytest.raises(SpiderUsageError, match=why):
        make_config({"data": {"path": "d"}}, overrides)
