"""How different two images look, by the feature maps of a pretrained network.

    LPIPS[vgg], LPIPS[alex]   Zhang et al. 2018, version 0.1, the numbers of the package lpips: feature maps of VGG16 or
                              AlexNet, scaled to length 1 at every place, their squared differences weighed by learned
                              weights of the channels, averaged over places, summed over five maps
    PD[efficientnet]          the same of the four stages of EfficientNet-Lite0, without weights of the channels, and
                              averaged over the maps: 0 to 4. Images come to 224 x 224. Comparable only with itself

LPIPS needs two files: the trunk, which torchvision publishes, and the learned weights, which lie in the package lpips.
Images are compared place by place: one that is moved by a few pixels is another one. Gradients go to the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spider import weights as pretrained
from spider.backbones.efficientnet_lite0 import read_efficientnet_lite0
from spider.backbones.layers import Layers
from spider.errors import SpiderError, SpiderUsageError
from spider.measures import DISTANCES
from untrusted.words import not_known

LEAST_SIDE = 32  # pixels; below it AlexNet's last maps have no places
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of LPIPS' input
_EPS = 1e-10
_TINY = 1e-30  # the root's gradient at 0 is infinite
_OTHERWISE = "or use --distance efficientnet"
_SIDE = 224  # pixels, of EfficientNet's input


@dataclass(frozen=True)
class _Trunk:
    """A network of torchvision, as far as LPIPS looks through it.

    Attributes:
        convolutions: number in the file, channels, kernel, stride, padding; each is followed by a ReLU.
        taps: the maps after these are compared.
        pooled: before these, pools of `pool` pixels with a stride of 2.
        published: which weights file it is.
    """

    convolutions: tuple[tuple[int, int, int, int, int], ...]
    taps: tuple[int, ...]
    pooled: tuple[int, ...]
    pool: int
    published: str


_TRUNKS = {
    "alex": _Trunk(
        convolutions=(
            (0, 64, 11, 4, 2), (3, 192, 5, 1, 2), (6, 384, 3, 1, 1), (8, 256, 3, 1, 1), (10, 256, 3, 1, 1)
        ),
        taps=(0, 3, 6, 8, 10),
        pooled=(3, 6),
        pool=3,
        published="alexnet",
    ),
    "vgg": _Trunk(
        convolutions=tuple(
            (number, channels, 3, 1, 1)
            for channels, numbers in ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21, 24, 26, 28)))
            for number in numbers
        ),
        taps=(2, 7, 14, 21, 28),
        pooled=(5, 10, 17, 24),
        pool=2,
        published="vgg16",
    ),
}  # fmt: skip


class PerceptualDistance(Protocol):
    """How different images look."""

    @property
    def label(self) -> str:
        """What its numbers are called; names what is not the real thing."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """float [N, C, H, W] twice, -1 to 1, C 1 or 3 -> [N], 0 for equal images."""

    def maps(self, images: Tensor) -> list[Tensor]:
        """What is compared of images, float [N, c, h, w] each: for who compares the same image many times."""

    def between(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """The distances between images of which these are the maps, [N]; one image may stand for N equal ones."""


def perceptual_distance(name: str, weights: Path | None, device: torch.device) -> PerceptualDistance:
    """The distance of that name, of `spider.measures.DISTANCES`.

    Args:
        weights: of the network; the published ones by default.

    Raises:
        SpiderUsageError: no such distance.
        SpiderError: no weights, or not the network's. The message says how to get them.
    """
    if name not in DISTANCES:
        raise SpiderUsageError(f"distance {not_known(name, DISTANCES)}")
    if name == "efficientnet":
        return EfficientNetDistance(weights).to(device)
    return Lpips(name.removeprefix("lpips_"), weights).to(device)


class EfficientNetDistance(nn.Module):
    """PD[efficientnet]; see the module."""

    def __init__(self, weights: Path | None = None) -> None:
        """Raises SpiderError as `read_efficientnet_lite0`."""
        super().__init__()
        self._network, read = read_efficientnet_lite0(weights)
        self.label = f"PD[efficientnet{_named(read)}]"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `PerceptualDistance`."""
        return self.between(self.maps(a), self.maps(b))

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `PerceptualDistance`."""
        return [_of_length_one(maps) for maps in self._network.stages(self._input(_cast(images, self)))]

    def between(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """See `PerceptualDistance`."""
        pairs = zip(a, b, strict=True)
        return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in pairs]).mean(0)

    def _input(self, images: Tensor) -> Tensor:
        """-1 to 1 -> (p - 127) / 128 of pixels p, 0 to 255, as the network was trained."""
        resized = F.interpolate(images, size=(_SIDE, _SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
        return ((resized * 127.5 + 127.5 - 127) / 128).expand(-1, 3, -1, -1)


class Lpips(nn.Module):
    """LPIPS on images of their own size; see the module."""

    def __init__(self, trunk: str, weights: Path | None = None) -> None:
        """Read both files.

        Args:
            trunk: `vgg` or `alex`.
            weights: of the trunk, as torchvision publishes them.

        Raises:
            SpiderError: no weights, or not the trunk's; or the package lpips is not installed.
        """
        super().__init__()
        heads = pretrained.read(f"lpips_{trunk}", otherwise=_OTHERWISE)
        self._trunk = _TRUNKS[trunk]
        read = pretrained.read(
            self._trunk.published, weights, otherwise=f"or name a file: --weights FILE, {_OTHERWISE}"
        )
        state = {name: tensor for name, tensor in read.state.items() if not name.startswith("classifier.")}
        try:
            self._convolutions = _convolutions(Layers(state), self._trunk)
            self._heads = _heads(Layers(heads.state), self._trunk)
        except ValueError as error:
            raise SpiderError(f"{read.path}: not the weights of LPIPS' trunk {trunk}: {error}") from error
        self.label = f"LPIPS[{trunk}{_named(read)}]"
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `PerceptualDistance`. Raises SpiderUsageError for images below `LEAST_SIDE` pixels."""
        return self.between(self.maps(a), self.maps(b))

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `PerceptualDistance`. Raises as `forward`."""
        height, width = images.shape[2:]
        if min(height, width) < LEAST_SIDE:
            raise SpiderUsageError(f"LPIPS needs images of {LEAST_SIDE} x {LEAST_SIDE} px; found {width} x {height}")
        images = _cast(images, self)
        shift, scale = (images.new_tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
        x = (images.expand(-1, 3, -1, -1) - shift) / scale
        tapped = []
        for number, convolution in self._convolutions.items():
            if int(number) in self._trunk.pooled:
                x = F.max_pool2d(x, self._trunk.pool, 2)
            x = F.relu(convolution(x))
            if number in self._heads:
                tapped.append(_of_length_one(x))
        return tapped

    def between(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """See `PerceptualDistance`."""
        heads = zip(self._heads.values(), a, b, strict=True)
        each = [head((x - y).square()).mean((1, 2, 3)) for head, x, y in heads]
        return torch.stack(each).sum(0)


def _cast(images: Tensor, network: nn.Module) -> Tensor:
    """In the network's precision: a generator may make its images in another one."""
    return images.to(next(network.parameters()).dtype)


def _of_length_one(maps: Tensor) -> Tensor:
    """Maps [N, C, h, w] whose channels have length 1 at every place; where all of them are 0, their gradient is 0."""
    return maps / (maps.square().sum(1, keepdim=True).clamp_min(_TINY).sqrt() + _EPS)


def _convolutions(layers: Layers, trunk: _Trunk) -> nn.ModuleDict:
    """By their numbers, in their order."""
    made = nn.ModuleDict()
    channels = 3
    for number, out, kernel, stride, padding in trunk.convolutions:
        convolution = nn.Conv2d(channels, out, kernel, stride, padding)
        weight = layers.take(f"features.{number}.weight", (out, channels, kernel, kernel))
        convolution.load_state_dict({"weight": weight, "bias": layers.take(f"features.{number}.bias", (out,))})
        made[f"{number}"] = convolution
        channels = out
    layers.require_none_left()
    return made


def _heads(layers: Layers, trunk: _Trunk) -> nn.ModuleDict:
    """Of each tap, the sum over channels by their weights, by the number of its convolution."""
    made = nn.ModuleDict()
    channels = {number: out for number, out, *_ in trunk.convolutions}
    for number, tap in enumerate(trunk.taps):
        head = nn.Conv2d(channels[tap], 1, 1, bias=False)
        head.load_state_dict({"weight": layers.take(f"lin{number}.model.1.weight", (1, channels[tap], 1, 1))})
        made[f"{tap}"] = head
    layers.require_none_left()
    return made


def _named(read: pretrained.Pretrained) -> str:
    return "" if read.is_published else f"@{read.sha256[:8]}"
