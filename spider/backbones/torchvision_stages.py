"""Classifiers of torchvision with weights from a file, frozen: what they say, or four of their feature maps.

Residual networks, RegNets, EfficientNets, ConvNeXts and MobileNets are rows of blocks. The four maps, of 1/4, 1/8,
1/16 and 1/32 of the side, are what the last block of each size returns, before a last 1x1 convolution that some have
for their classifier. Images are normalised as `IMAGENET` (`spider.backbones.normalisation`), as torchvision's weights
of these networks expect. A classifier in the file may be of any classes: maps do without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.errors import SpiderError

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet

STRIDES = (4, 8, 16, 32)
_CLASSIFIERS = ("fc.", "classifier.")


class TorchvisionStages(nn.Module):
    """The network in evaluation mode, whatever `train` says.

    Attributes:
        channels: of the maps of `stages`.
        weights_digest: sha256 of the file; checkpoints of a network with this part hold it, not the weights.
    """

    weights_digest: str

    def __init__(self, name: str, layers: Layers) -> None:
        """From the tensors of a weights file, without those of the classifier.

        Args:
            name: as `torchvision.models.get_model` takes it, of one of the families above.

        Raises:
            ValueError: they are not this network's. The message says which tensor.
        """
        super().__init__()
        model = _loaded(name, layers)
        blocks = _blocks(model)
        ends, self.channels = _ends(blocks)
        begins = (0, *ends[:-1])
        self.parts = nn.ModuleList(nn.Sequential(*blocks[i:j]) for i, j in zip(begins, ends, strict=True))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> TorchvisionStages:
        """Nothing changes."""
        return super().train(False)

    def stages(self, images: Tensor) -> list[Tensor]:
        """float [N, 3, H, W], sides multiples of 32 -> feature maps of `STRIDES`. Differentiable by the images."""
        maps = []
        x = images
        for part in self.parts:
            x = part(x)
            maps.append(x)
        return maps


def read_torchvision(name: str, path: Path) -> TorchvisionStages:
    """The network of that name with the weights of a file, a state dict as torchvision publishes them.

    Raises:
        SpiderError: it cannot be read, or is another network's. The message says which tensor.
    """
    weights = pretrained.read_file(path)
    state = {key: each for key, each in weights.state.items() if not key.startswith(_CLASSIFIERS)}
    try:
        network = TorchvisionStages(name, Layers(state))
    except ValueError as error:
        raise SpiderError(f"{path}: not the weights of torchvision's {name}: {error}") from error
    network.weights_digest = weights.sha256
    return network


def read_torchvision_classifier(name: str, path: Path) -> tuple[nn.Module, int, int]:
    """A whole network in evaluation mode, its classes, and the side of the images, in px, that it was trained for.

    Of which classes it is, the file says. [N, 3, side, side], normalised -> scores [N, classes].

    Raises:
        SpiderError: as `read_torchvision`; or the file has no classifier.
    """
    from torchvision.models import get_model_weights

    weights = pretrained.read_file(path)
    try:
        last = [key for key in weights.state if key.startswith(_CLASSIFIERS) and key.endswith(".weight")]
        if not last:
            raise ValueError("it has no classifier")
        layers = Layers(weights.state)
        (classes, *_) = layers.shape(max(last)) or (0,)
        model = _loaded(name, layers, classes)
    except ValueError as error:
        raise SpiderError(f"{path}: not the weights of torchvision's {name}: {error}") from error
    (side,) = get_model_weights(name).DEFAULT.transforms().crop_size
    return model.requires_grad_(False), classes, side


def _loaded(name: str, layers: Layers, classes: int | None = None) -> nn.Module:
    """torchvision's network with these tensors, in evaluation mode. Raises ValueError: they are another's.

    Args:
        classes: how many its classifier knows; None = the tensors are without it, and it stays random.
    """
    from torchvision.models import get_model  # takes a second, and few networks look through one of these

    with torch.random.fork_rng(devices=[]):  # torchvision draws weights, which those of the file replace
        model: nn.Module = get_model(name, weights=None, **({} if classes is None else {"num_classes": classes}))
    expected = {
        key: each
        for key, each in model.state_dict().items()
        if not key.endswith(".num_batches_tracked") and (classes is not None or not key.startswith(_CLASSIFIERS))
    }
    state = {key: layers.take(key, tuple(each.shape)) for key, each in expected.items()}
    layers.require_none_left()
    model.load_state_dict(state, strict=False)
    return model.eval()


def _blocks(model: nn.Module) -> list[nn.Module]:
    """What images go through one after the other, up to the last map."""
    from torchvision.models.regnet import RegNet
    from torchvision.models.resnet import ResNet
    from torchvision.ops.misc import Conv2dNormActivation

    if isinstance(model, ResNet):
        return _of_resnet(model)
    if isinstance(model, RegNet):
        return [model.stem, *model.trunk_output.children()]
    features = [*model.get_submodule("features").children()]
    return features[:-1] if isinstance(features[-1], Conv2dNormActivation) else features


def _of_resnet(model: ResNet) -> list[nn.Module]:
    stem = [model.conv1, model.bn1, model.relu, model.maxpool]
    return [*stem, model.layer1, model.layer2, model.layer3, model.layer4]


@torch.no_grad()
def _ends(blocks: Sequence[nn.Module]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many blocks are over when the last map of each stride is there, and the channels of these maps."""
    side = 2 * STRIDES[-1]
    found: dict[int, tuple[int, int]] = {}
    x = torch.zeros(1, 3, side, side)
    for number, block in enumerate(blocks, 1):
        x = block(x)
        found[side // x.shape[-1]] = (number, x.shape[1])
    ends, channels = zip(*(found[stride] for stride in STRIDES), strict=True)
    return ends, channels
