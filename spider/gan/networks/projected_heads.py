"""The heads of a projected discriminator, which train: each judges one of the mixed maps of a pretrained network.

    map of 1/2, 1/4, 1/8, 1/16 of the side --a head each--> 25 logits each at 256 px, 16 at 224 px

A head halves the map until it is 1/32 of the side (convolutions of 4x4, batch norm, leaky ReLU), and a last convolution
of 4x4 judges each place. With classes it judges by the product with a vector of the class (Miyato and Koyama 2018).

Outputs and gradients are those of autonomousvision/projected_gan and, with class_layer=equalised, of its stylegan-xl
(pg_modules/discriminator.py in both); sliced, those of sony/san, stylesan-xl.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu

from cluster.world import World
from spider.gan.networks.classes import ClassEmbedding
from spider.gan.networks.equalized import EqualLinear
from spider.gan.networks.norm import batch_norm_as_torch
from spider.gan.networks.projected_config import SCALES, ProjectedDiscriminatorConfig
from spider.gan.networks.slicing import Judged, Sliceable, read, read_conv, said
from spider.gan.networks.spectral import SpectralConv, without_spectral_norm
from spider.gan.networks.told import told_embedding
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, DOut

_SLOPE = 0.2
_CLASS_MAPS = 64  # maps that are compared with a class


class Heads(Sliceable):
    """Mixed maps, from the largest on -> the judgement of all."""

    def __init__(
        self, config: ProjectedDiscriminatorConfig, channels: Sequence[int], told: ConditionShape, world: World
    ) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            _Head(channels[scale], [config.channels(level) for level in range(SCALES - scale)], config, told, world)
            for scale in range(config.heads)
        )
        self.features = config.channels(0)

    def forward(self, maps: Sequence[Tensor], condition: Condition) -> DOut:
        """See the class. Maps for which there is no head are not looked at."""
        judged = [head(each, condition) for head, each in zip(self.each, maps, strict=False)]
        return said([each for each, _ in judged], {"last": judged[-1][1].mean((2, 3))})

    def slice(self) -> None:
        """See Sliceable."""
        for head in self.each:
            assert isinstance(head, _Head)
            head.slice()

    def layers_from_images(self) -> list[list[nn.Module]]:
        """See ProjectedDiscriminator."""
        found: list[list[nn.Module]] = [[] for _ in range(SCALES + 1)]
        for head in self.each:
            assert isinstance(head, _Head)
            for before_end, block in enumerate(reversed(head.blocks), 1):
                found[SCALES - before_end].append(block)
            found[-1] += [part for part in (head.last, head.embedding, head.to_class) if part is not None]
        return [layer for layer in found if layer]


class _Head(Sliceable):
    """[N, c, h, w] -> the judgement of its places [N, 1, h', w'], and what the last layer looks at."""

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],  # from the end on
        config: ProjectedDiscriminatorConfig,
        told: ConditionShape,
        world: World,
    ) -> None:
        super().__init__()
        outs = [*reversed(channels)]
        make = _Separable if config.separable else _Halving
        self.blocks = nn.ModuleList(make(n, out, world) for n, out in zip([inputs, *outs], outs, strict=False))
        self.last: nn.Conv2d = SpectralConv(outs[-1], _CLASS_MAPS if told != UNCONDITIONAL else 1, 4)
        self.embedding = told_embedding(told, config.embedding_dim)
        self.to_class = _to_class(config) if self.embedding else None

    def forward(self, x: Tensor, condition: Condition) -> tuple[Judged, Tensor]:
        """See the class."""
        for block in self.blocks:
            x = block(x)
        if self.embedding is None:
            return read_conv(x, self.last, sliced=self.sliced), x
        told = self.embedding(condition)
        told = told if self.to_class is None else self.to_class(told)
        return read(_in_places, self.last(x), told / math.sqrt(_CLASS_MAPS), sliced=self.sliced), x

    def slice(self) -> None:
        """See Sliceable: as in StyleSAN-XL the direction has no spectral norm, and that of a class no layers."""
        super().slice()
        if self.embedding is None:
            self.last = without_spectral_norm(self.last)
        elif self.to_class is not None and isinstance(self.embedding, ClassEmbedding):
            with torch.no_grad():
                self.embedding.weight = nn.Parameter(self.to_class(self.embedding.weight))
            self.to_class = None


def _to_class(config: ProjectedDiscriminatorConfig) -> nn.Module:
    """From the vector of a class to what maps are compared with."""
    if config.class_layer == "equalised":
        return EqualLinear(config.embedding_dim, _CLASS_MAPS, activate=True)
    return _Dense(config.embedding_dim, _CLASS_MAPS)


class _Dense(nn.Linear):
    """[N, inputs] -> [N, outputs], activated."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return leaky_relu(super().forward(x), _SLOPE)


def _in_places(x: Tensor, told: Tensor) -> Tensor:
    """[N, C, h, w], [N, C] -> [N, 1, h, w]."""
    return (x * told[:, :, None, None]).sum(1, keepdim=True)


class _Halving(nn.Module):
    """[N, c, 2 h, 2 w] -> [N, C, h, w]."""

    def __init__(self, inputs: int, outputs: int, world: World) -> None:
        super().__init__()
        self.conv = SpectralConv(inputs, outputs, 4, 2, 1, bias=True)
        self.norm = batch_norm_as_torch(outputs, world)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return leaky_relu(self.norm(self.conv(x)), _SLOPE)


class _Separable(nn.Module):
    """The same by a convolution of each channel, one of 1x1, and averages of 2x2."""

    def __init__(self, inputs: int, outputs: int, world: World) -> None:
        super().__init__()
        self.depthwise = SpectralConv(inputs, inputs, 3, 1, 1, groups=inputs)
        self.pointwise = SpectralConv(inputs, outputs, 1)
        self.norm = batch_norm_as_torch(outputs, world)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return avg_pool2d(leaky_relu(self.norm(self.pointwise(self.depthwise(x))), _SLOPE), 2)
