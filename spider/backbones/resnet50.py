"""ResNet-50 (He et al. 2016) with weights from a file, frozen: the average of the last feature map.

    [N, 3, H, W] -> stem, 64 channels, 1/4 of the side -> four stages of 256, 512, 1024, 2048 channels, 1/4 to 1/32
                 -> [N, 2048]

A stage's stride is in the 3 x 3 convolution of its first block, as in torchvision's. The tensors are called as there;
SwAV's file has them under `module.`, beside the head that it was trained with. Batch normalisations are folded into the
convolutions, in float64. Images are normalised as `IMAGENET` (`spider.backbones.normalisation`).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.errors import SpiderError

FEATURES = 2048
CPU_IMAGES = 8  # at a time

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # inner channels, blocks
_EXPANSION = 4
_STEM = 64
_BATCH_NORM_EPS = 1e-5
# Whose ResNet-50, what errors call it, and the head that it was trained with, which no image is judged by
_KINDS = {
    "swav": ("SwAV's ResNet-50", ("projection_head.", "prototypes.")),
    "resnet50": ("torchvision's ResNet-50", ("fc.",)),
}


class ResNet50(nn.Module):
    """The network in evaluation mode, whatever `train` says: nothing in it differs."""

    def __init__(self, layers: Layers) -> None:
        """From the tensors of a weights file.

        Raises:
            ValueError: they are not this network's. The message says which tensor.
        """
        super().__init__()
        self.stem = _Conv(layers, "conv1", "bn1", 3, _STEM, kernel=7, stride=2)
        blocks: list[nn.Module] = []
        channels = _STEM
        for stage, (inner, count) in enumerate(_STAGES, 1):
            for number in range(count):
                stride = 2 if number == 0 and stage > 1 else 1
                blocks.append(_Block(layers, f"layer{stage}.{number}.", channels, inner, stride, number == 0))
                channels = inner * _EXPANSION
        self.blocks = nn.Sequential(*blocks)
        layers.require_none_left()
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W] -> [N, 2048], 0 or more."""
        x = F.relu(self.stem(images.contiguous(memory_format=torch.channels_last)))
        x = self.blocks(F.max_pool2d(x, 3, 2, 1))
        features: Tensor = x.mean((2, 3))
        return features


class _Conv(nn.Conv2d):
    """A convolution with its batch normalisation folded into it."""

    def __init__(
        self, layers: Layers, conv: str, norm: str, channels: int, out: int, *, kernel: int = 1, stride: int = 1
    ) -> None:
        super().__init__(channels, out, kernel, stride, kernel // 2)
        weight, bias = layers.folded(conv, norm, (out, channels, kernel, kernel), _BATCH_NORM_EPS)
        self.load_state_dict({"weight": weight, "bias": bias})


class _Block(nn.Module):
    """Narrow, convolve, widen; added to the input, which the first block of a stage brings to the new shape."""

    def __init__(self, layers: Layers, name: str, channels: int, inner: int, stride: int, first: bool) -> None:
        super().__init__()
        out = inner * _EXPANSION
        self.narrow = _Conv(layers, f"{name}conv1", f"{name}bn1", channels, inner)
        self.convolve = _Conv(layers, f"{name}conv2", f"{name}bn2", inner, inner, kernel=3, stride=stride)
        self.widen = _Conv(layers, f"{name}conv3", f"{name}bn3", inner, out)
        self.shortcut = (
            _Conv(layers, f"{name}downsample.0", f"{name}downsample.1", channels, out, stride=stride)
            if first
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        widened = self.widen(F.relu(self.convolve(F.relu(self.narrow(x)))))
        return F.relu(widened + self.shortcut(x))


def read_resnet50(kind: str, path: Path | None = None) -> tuple[ResNet50, pretrained.Pretrained]:
    """A ResNet-50, and which weights it has: those of `path`, by default the published ones.

    Args:
        kind: `swav`, that of Caron et al. (2020); or `resnet50`, a classifier by the names of torchvision.

    Raises:
        SpiderError: no weights, or not this network's. The message says how to get them.
    """
    called, head = _KINDS[kind]
    weights = pretrained.read(kind, path)
    state = {name.removeprefix("module."): tensor for name, tensor in weights.state.items()}
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    try:
        return ResNet50(Layers(trunk)), weights
    except ValueError as error:
        raise SpiderError(f"{weights.path}: not the weights of {called}: {error}") from error
