"""EfficientNet-Lite0 with weights of ImageNet, frozen: feature maps of four stages, pooled features, class logits.

    [N, 3, H, W] -> stem, blocks 0 - 2    24 channels, 1/4 of the side
                    blocks 3 - 4          40 channels, 1/8
                    blocks 5 - 10        112 channels, 1/16
                    blocks 11 - 15       320 channels, 1/32
                    head                1280 channels, averaged over the image -> logits of 1000 classes

Tan and Le 2019 (EfficientNet), in TensorFlow's Lite variant: no squeeze and excitation, ReLU6, padding "SAME". The
numbers are those of timm's `tf_efficientnet_lite0` and of the package efficientnet-lite-pytorch. The four stages are
those of Projected GAN (Sauer et al. 2021). Gradients go to the input; there are none to the weights.

Batch normalisations are folded into the convolutions, in float64. On a CPU two more things count, for which no number
changes, and which together with a batch of 4 images make it twice as fast: images that lie channels-last, and
convolutions that go to oneDNN whatever the number of threads (`_Conv`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.errors import SpiderError

CHANNELS = (24, 40, 112, 320)  # of the four stages
FEATURES = 1280
CLASSES = 1000
CPU_IMAGES = 4  # at a time, so that a layer's input and output are still in the processor's cache

# Groups of blocks: expansion, kernel, stride of the first block, output channels, blocks
_GROUPS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM = 32
_STAGE_ENDS = (3, 5, 11, 16)  # blocks that are over when a stage is
_BATCH_NORM_EPS = 1e-3

# From timm's names to the package's: of layers outside of blocks, and in blocks that expand or do not
_OUTSIDE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
_EXPANDING = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
_EXPANDING |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
_PLAIN = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
_BLOCK = re.compile(r"blocks\.(\d)\.(\d)\.(\w+)\.(\w+)")


class EfficientNetLite0(nn.Module):
    """The network in evaluation mode, whatever `train` says: nothing in it differs.

    Attributes:
        channels: of the maps of `stages`.
        weights_digest: sha256 of the published file; checkpoints of a network with this part hold it, not the weights.
    """

    channels = CHANNELS
    weights_digest: str

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """From the tensors of a weights file, under the names of the package efficientnet-lite-pytorch, or timm's.

        Raises:
            ValueError: they are not this network's. The message says which tensor.
        """
        super().__init__()
        layers = _Layers(_from_timm(state) if "conv_stem.weight" in state else state)
        self.stem = layers.conv("_conv_stem", "_bn0", 3, _STEM, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        channels = _STEM
        for expansion, kernel, stride, out, count in _GROUPS:
            for number in range(count):
                first = number == 0
                name = f"_blocks.{len(blocks)}."
                blocks.append(_Block(layers, name, channels, out, expansion, kernel, stride if first else 1))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = layers.conv("_conv_head", "_bn1", channels, FEATURES)
        self.classifier = nn.Linear(FEATURES, CLASSES)
        self.classifier.load_state_dict(
            {"weight": layers.take("_fc.weight", (CLASSES, FEATURES)), "bias": layers.take("_fc.bias", (CLASSES,))}
        )
        layers.require_none_left()
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def stages(self, images: Tensor) -> list[Tensor]:
        """float [N, 3, H, W], of about -1 to 1, any H and W -> feature maps [N, 24, H/4, W/4] .. [N, 320, H/32, W/32].

        Sides are rounded up. Differentiable by the images.
        """
        maps = []
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in _STAGE_ENDS:
                maps.append(x)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W], as `stages` -> [N, 1280], 0 to 6: the last feature map, averaged over the image."""
        return self.features_and_stage(images)[0]

    def features_and_stage(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `features`, and the last of the four stages, [N, 320], averaged over the image as well."""
        stage = self.stages(images)[-1]
        return self.head(stage).mean((2, 3)), stage.mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """[N, 1280], from `features` -> [N, 1000]: ImageNet's classes in their usual order."""
        logits: Tensor = self.classifier(features)
        return logits


def read_efficientnet_lite0(path: Path | None = None) -> tuple[EfficientNetLite0, pretrained.Pretrained]:
    """The network, and which weights it has: those of `path`, by default the published ones.

    Raises:
        SpiderError: no weights, or not this network's. The message says how to get them.
    """
    weights = pretrained.read("efficientnet", path)
    try:
        network = EfficientNetLite0(weights.state)
    except ValueError as error:
        raise SpiderError(f"{weights.path}: not the weights of EfficientNet-Lite0: {error}") from error
    network.weights_digest = weights.sha256
    return network, weights


def _from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of timm's `tf_efficientnet_lite0` under the package's names. Of those of others the names stay."""
    return {_package_name(name): tensor for name, tensor in state.items()}


def _package_name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block is None:
        layer, _, part = name.rpartition(".")
        return f"{_OUTSIDE.get(layer, layer)}.{part}"
    group, number = int(block[1]), int(block[2])
    before = sum(count for *_, count in _GROUPS[:group])
    layers = _PLAIN if group == 0 else _EXPANDING
    return f"_blocks.{before + number}.{layers.get(block[3], block[3])}.{block[4]}"


class _Block(nn.Module):
    """Expand, convolve each channel by itself, project; added to the input where the shapes allow it."""

    def __init__(
        self, layers: _Layers, name: str, channels: int, out: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = (
            nn.Identity() if expansion == 1 else layers.conv(f"{name}_expand_conv", f"{name}_bn0", channels, wide)
        )
        self.depthwise = layers.conv(
            f"{name}_depthwise_conv", f"{name}_bn1", wide, wide, kernel=kernel, stride=stride, groups=wide
        )
        self.project = layers.conv(f"{name}_project_conv", f"{name}_bn2", wide, out, rectified=False)
        self.is_residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(self.depthwise(self.expand(x)))
        return projected.add_(x) if self.is_residual else projected


class _Conv(nn.Module):
    """A convolution under TensorFlow's padding "SAME", a bias, and ReLU6 if it is rectified.

    "SAME" pads a stride of 2 on an even side by one more pixel at the end than at the start. A copy with a border would
    cost as much as the convolution: instead the kernel has a row and a column of zeros in front, and both ends the
    same padding.

    On a CPU with one thread, PyTorch hands a kernel of 1 x 1 to oneDNN only if it is dilated or the batch is 16 images
    or more; its other way takes twice as long. A dilation does nothing to one pixel.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, groups: int, rectified: bool) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.rectified = weight.shape[2], stride, groups, rectified
        self.weight = nn.Parameter(F.pad(weight, (1, 0, 1, 0)) if stride == 2 else weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        dilation = 2 if self.kernel == 1 and x.device.type == "cpu" else 1
        x = F.conv2d(x, self.weight, self.bias, self.stride, self._padding(x), dilation, self.groups)
        return F.hardtanh(x, 0.0, 6.0, inplace=True) if self.rectified else x

    def _padding(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of zeros at either end of x [N, C, H, W]."""
        half = self.kernel // 2
        return (half, half) if self.stride == 1 else (half + x.shape[2] % 2, half + x.shape[3] % 2)


class _Layers(Layers):
    """Makes this network's convolutions."""

    def conv(
        self,
        conv: str,
        norm: str,
        channels: int,
        out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        rectified: bool = True,
    ) -> _Conv:
        """The convolution `conv`, followed by the batch normalisation `norm` under its running statistics."""
        shape = (out, channels // groups, kernel, kernel)
        return _Conv(*self.folded(conv, norm, shape, _BATCH_NORM_EPS), stride, groups, rectified)
