"""The four maps of torchvision's networks are those that its own feature extraction finds."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from spider.backbones.torchvision_stages import (
    STRIDES,
    _blocks,
    _ends,
    read_torchvision,
    read_torchvision_classifier,
)
from spider.errors import SpiderError
from spider.gan.networks.backbone_config import TorchvisionConfig

NAMES = get_args(TorchvisionConfig.model_fields["network"].annotation)
# The nodes of each family, as a person reads them off its code
NODES = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "regnet_y_400mf": [f"trunk_output.block{number}" for number in (1, 2, 3, 4)],
    "efficientnet_b0": ["features.2", "features.3", "features.5", "features.7"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "mobilenet_v3_small": ["features.1", "features.3", "features.8", "features.11"],
}
CHANNELS = {
    "resnet50": (256, 512, 1024, 2048),
    "efficientnet_b4": (32, 56, 160, 448),
    "convnext_base": (128, 256, 512, 1024),
}


def theirs(name: str, classes: int = 1000) -> nn.Module:
    """With statistics that are not those of a new network."""
    torch.manual_seed(0)
    network = get_model(name, weights=None, num_classes=classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


@pytest.mark.parametrize("name", NODES)
def test_maps_and_gradients_are_torchvisions_own(name: str, tmp_path: Path):
    expected = theirs(name)
    torch.save(expected.state_dict(), tmp_path / "mine.pth")
    network = read_torchvision(name, tmp_path / "mine.pth").train()
    images = torch.randn(1, 3, 64, 96, requires_grad=True)
    nodes = create_feature_extractor(expected, NODES[name])(images)
    found = network.stages(images)
    for stride, each, node, channels in zip(STRIDES, found, NODES[name], network.channels, strict=True):
        assert each.shape == (1, channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(each, nodes[node])
    slopes = [torch.autograd.grad(sum(m.square().mean() for m in maps), images)[0] for maps in (found, nodes.values())]
    torch.testing.assert_close(*slopes)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_scores_are_torchvisions_own(name: str, tmp_path: Path):
    expected, file = theirs(name, 7), tmp_path / "mine.pth"
    torch.save(expected.state_dict(), file)
    network, classes, side = read_torchvision_classifier(name, file)
    assert (classes, side) == (7, 224)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), expected(images))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    without = {key: each for key, each in expected.state_dict().items() if not key.startswith(("fc.", "classifier."))}
    torch.save(without, file)
    with pytest.raises(SpiderError, match=f"mine.pth: not the weights of torchvision's {name}: it has no classifier"):
        read_torchvision_classifier(name, file)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_four_maps(name: str, monkeypatch: pytest.MonkeyPatch):
    for draw in ("kaiming_normal_", "normal_", "trunc_normal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)  # which takes most of the time
    ends, channels = _ends(_blocks(get_model(name, weights=None).eval()))
    assert [*ends] == sorted(set(ends))
    assert channels == CHANNELS.get(name, channels)


def test_reading_draws_nothing(tmp_path: Path):
    torch.save(theirs("resnet18").state_dict(), tmp_path / "mine.pth")
    before = torch.get_rng_state()
    read_torchvision("resnet18", tmp_path / "mine.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_another_networks_weights_are_refused_by_the_name_of_a_tensor(tmp_path: Path):
    state, file = theirs("resnet18").state_dict(), tmp_path / "mine.pth"
    for given, said in (
        (
            {**state, "layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)},
            r"layer1.0.conv1.weight is torch.float32 \[64, 3",
        ),
        ({name: each for name, each in state.items() if name != "bn1.bias"}, "it has no bn1.bias"),
        ({**state, "layer5.weight": torch.zeros(1)}, "it also has layer5.weight"),
    ):
        torch.save(given, file)
        with pytest.raises(SpiderError, match=f"mine.pth: not the weights of torchvision's resnet18: {said}"):
            read_torchvision("resnet18", file)
    torch.save({**state, "fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}, file)
    assert read_torchvision("resnet18", file).channels == (64, 128, 256, 512)
    torch.save(state, tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(SpiderError, match="its name says f37072fd"):
        read_torchvision("resnet18", tmp_path / "resnet18-f37072fd.pth")
