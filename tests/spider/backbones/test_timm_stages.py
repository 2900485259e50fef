"""Maps of a network that has what timm's networks have: which are taken, of which weights, and how images are scaled.

timm is an extra. Where it is not installed, networks that have what its documentation names stand in for its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.world import World
from spider.backbones.timm_stages import read_timm
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.networks.backbone_config import TimmConfig
from spider.gan.networks.build import build_discriminator
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.outputs import Condition

STRIDES = {"pyramid": [2, 4, 8, 8, 16, 32], "flat": [16, 16], "narrow": [2, 4, 8, 8, 16, 32]}
CHANNELS = [2, 3, 4, 5, 6, 7]
FUSED = [1]  # what timm's flag of fused attention was: 0 off, 1 on, 2 on where it is experimental


def _head(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(inputs), nn.Linear(inputs, classes))


class Theirs(nn.Module):
    """A convolution and a batch norm for each map, a table of indices, and a classifier of two layers."""

    def __init__(self, strides: list[int]) -> None:
        super().__init__()
        self.blocks, self.feature_info, inputs, before = nn.ModuleList(), [], 3, 1
        for outputs, stride in zip(CHANNELS, strides, strict=False):
            conv = nn.Conv2d(inputs, outputs, stride // before or 1, stride // before or 1)
            self.blocks.append(nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU()))
            self.feature_info.append({"num_chs": outputs, "reduction": stride})
            inputs, before = outputs, stride
        self.head = _head(inputs, 1000)
        self.register_buffer("places", torch.arange(5))
        self.pretrained_cfg = {
            "mean": (0.5,) * 3,
            "std": (0.25,) * 3,
            "input_size": (3, 224, 224),
            "classifier": "head.1",
        }

    def reset_classifier(self, num_classes: int) -> None:
        assert num_classes == 0
        self.head = nn.Identity()

    def forward_intermediates(
        self, x: Tensor, indices: list[int], output_fmt: str, intermediates_only: bool
    ) -> list[Tensor]:
        assert output_fmt == "NCHW"
        assert intermediates_only
        maps = []
        for block in self.blocks:
            maps.append(x := block(x))
        return [maps[index] for index in indices]


def create_model(name: str, pretrained: bool) -> nn.Module:
    assert not pretrained
    assert not FUSED[-1]
    if name not in STRIDES:
        raise RuntimeError(f"Unknown model ({name})")
    network = Theirs(STRIDES[name])
    if name == "narrow":  # than it tells
        network.blocks[1].append(nn.AvgPool2d(2, 1))
    return network


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    module, layers = ModuleType("timm"), ModuleType("timm.layers")
    module.create_model = create_model
    layers.use_fused_attn = lambda experimental=False: FUSED[-1] > experimental
    layers.set_fused_attn = lambda enable, experimental=False: FUSED.append(enable + (enable and experimental))
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.layers", layers)


@pytest.fixture
def saved(timm: None, tmp_path: Path) -> tuple[nn.Module, Path]:
    """A network of 7 classes whose statistics are not those of a new one, and the file of its weights."""
    torch.manual_seed(0)
    network, file = Theirs(STRIDES["pyramid"]), tmp_path / "mine.safetensors"
    network.head = _head(CHANNELS[-1], 7)
    for block in network.blocks:
        nn.init.uniform_(block[1].running_mean, -0.1, 0.1)
    save_file(network.state_dict(), file)
    return network.eval(), file


@pytest.mark.parametrize("fused", [0, 1, 2])
def test_the_last_map_of_each_stride_is_taken_with_the_weights_of_the_file(saved, fused):
    expected, file = saved
    FUSED.append(fused)
    drawn = torch.get_rng_state()
    network = read_timm("pyramid", file).train()
    assert torch.equal(torch.get_rng_state(), drawn)
    assert FUSED[-1] == fused
    images = torch.randn(2, 3, 64, 96, requires_grad=True)
    found, wanted = network.stages(images), expected.forward_intermediates(images, [1, 3, 4, 5], "NCHW", True)
    assert network.channels == tuple(each.shape[1] for each in found) == (3, 5, 6, 7)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    (slope,) = torch.autograd.grad(sum(each.sum() for each in found), images)
    assert slope.any()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert network.side is None
    assert len(network.weights_digest) == 64


@pytest.mark.parametrize(("normalise", "scaled"), [(True, 2.0), (False, 1.0)])
def test_a_discriminator_shows_it_images_as_it_was_trained(saved, normalise, scaled):
    """Half the mean and a quarter of the deviation make -2 to 2 of images from -1 to 1."""
    look = TimmConfig(network="pyramid", weights=str(saved[1]), normalise=normalise)
    config = ProjectedDiscriminatorConfig(backbones=(look,), width=1 / 64, mixed_channels=4, enlarge_to=128)
    discriminator = build_discriminator(config, (3, 128, 128), World.single(), 0)
    images, seen = torch.rand(2, 3, 128, 128) * 2 - 1, []
    discriminator.backbone.model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert discriminator(images, Condition()).logits.shape[0] == 2
    torch.testing.assert_close(seen[0], scaled * images)


def test_what_cannot_be_looked_through_is_refused(saved, tmp_path, monkeypatch):
    state, file = saved[0].state_dict(), saved[1]
    for given, said in (
        ({name: each for name, each in state.items() if name != "blocks.0.0.bias"}, "it has no blocks.0.0.bias"),
        ({**state, "blocks.9.0.bias": torch.zeros(1)}, "it also has blocks.9.0.bias"),
        ({**state, "head.2.bias": torch.zeros(7)}, "it also has head.2.bias"),
        ({**state, "places": torch.arange(5).flip(0)}, "places is not what this network has there"),
        ({**state, "places": torch.arange(5.0)}, "places is not what this network has there"),
    ):
        save_file(given, tmp_path / "other.safetensors")
        with pytest.raises(SpiderError, match=f"other.safetensors: not the weights of timm's pyramid: {said}"):
            read_timm("pyramid", tmp_path / "other.safetensors")
    with pytest.raises(SpiderUsageError, match=r"kind=timm network=nothing: Unknown model \(nothing\)"):
        read_timm("nothing", file)
    with pytest.raises(
        SpiderUsageError, match=r"kind=timm network=narrow maps an image of 128 px to 31x31, 15x15, 7x7, 3x3 px"
    ):
        read_timm("narrow", file)
    with pytest.raises(SpiderUsageError, match=r"kind=timm network=flat has no maps of .*, found strides \[16\]"):
        read_timm("flat", file)
    monkeypatch.delattr(Theirs, "forward_intermediates")
    with pytest.raises(SpiderUsageError, match="network=pyramid has no forward_intermediates in this version"):
        read_timm("pyramid", file)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpiderError, match="kind=timm needs a package: pip install timm"):
        read_timm("pyramid", file)


def test_files_of_timms_own_networks_are_read(tmp_path):
    """A residual network, one whose classifier is of several layers, and one with tables of indices."""
    timm, file = pytest.importorskip("timm"), tmp_path / "own.safetensors"
    for name in ("resnet10t", "repvit_m0_9", "efficientformer_l1"):
        expected = timm.create_model(name, pretrained=False, num_classes=7).eval()
        save_file(expected.state_dict(), file)
        network = read_timm(name, file)
        images = torch.randn(1, 3, *[network.side or 64] * 2)
        with torch.no_grad():
            wanted = expected.forward_intermediates(images, intermediates_only=True)[-4:]
            for one, other in zip(network.stages(images), wanted, strict=True):
                assert torch.equal(one, other)


def test_a_network_of_timm_with_attention_is_differentiated_twice(tmp_path):
    timm, file = pytest.importorskip("timm"), tmp_path / "own.safetensors"
    fused = timm.create_model("pvt_v2_b0", pretrained=False).eval()
    save_file(fused.state_dict(), file)
    network, images = read_timm("pvt_v2_b0", file), torch.randn(1, 3, 64, 64, requires_grad=True)
    found = network.stages(images)
    for one, other in zip(found, fused.forward_intermediates(images, intermediates_only=True), strict=True):
        torch.testing.assert_close(one, other)
    (slope,) = torch.autograd.grad(sum(each.square().sum() for each in found), images, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), images)
    assert second.any()
    assert timm.layers.use_fused_attn()


def test_a_network_of_timm_whose_maps_are_smaller_than_it_tells_is_refused(tmp_path):
    timm, file = pytest.importorskip("timm"), tmp_path / "own.safetensors"
    save_file(timm.create_model("inception_v3", pretrained=False).state_dict(), file)
    with pytest.raises(
        SpiderUsageError, match="network=inception_v3 maps an image of 128 px to 28x28, 13x13, 6x6, 2x2"
    ):
        read_timm("inception_v3", file)
