"""The network is torchvision's, under the names of SwAV's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from spider.backbones.resnet50 import FEATURES, read_resnet50
from spider.errors import SpiderError


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    network = resnet50(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.3, 0.8)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def swav(network: nn.Module) -> dict[str, Tensor]:
    """As SwAV's training saves it."""
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    head = {"module.projection_head.0.weight": torch.zeros(8, FEATURES), "module.prototypes.weight": torch.zeros(9, 8)}
    return state | head


def test_features_are_torchvisions(theirs: nn.Module, tmp_path: Path):
    torch.save(swav(theirs), tmp_path / "mine.pth.tar")
    network, read = read_resnet50("swav", tmp_path / "mine.pth.tar")
    images = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    expected = theirs(images)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert not read.is_published
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_classifier_of_torchvision_gives_what_its_classes_are_read_from(theirs: nn.Module, tmp_path: Path):
    head = {"fc.weight": torch.zeros(1000, FEATURES), "fc.bias": torch.zeros(1000)}
    torch.save(theirs.state_dict() | head, tmp_path / "mine.pth")
    network, _ = read_resnet50("resnet50", tmp_path / "mine.pth")
    images = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    expected = theirs(images)
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_another_resnet_is_refused(theirs: nn.Module, tmp_path: Path):
    file = tmp_path / "mine.pth"
    for state, said in (
        (swav(theirs) | {"module.fc.weight": torch.zeros(1000, FEATURES)}, "it also has fc.weight"),
        ({"module.conv1.weight": torch.zeros(64, 3, 7, 7)}, "it has no bn1.weight"),
    ):
        torch.save(state, file)
        with pytest.raises(SpiderError, match=f"not the weights of SwAV's ResNet-50: {said}"):
            read_resnet50("swav", file)
