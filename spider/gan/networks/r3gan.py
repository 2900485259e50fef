"""R3GAN's generator and discriminator (Huang et al. 2024, section 4): grouped residual blocks, nothing normalised.

    z [N, d] (, class) --basis--> [N, C0, 4, 4] --blocks, up--> ... --blocks--> [N, Cn, H, W] --1x1--> images
    images --1x1--> [N, Cn, H, W] --blocks, down--> ... --blocks--> [N, C0, 4, 4] --basis--> logit

Widths and groups are listed from 4 px up, one for each resolution. Initialisation, resampling and the class embedding
are those of the authors' code (R3GAN/Networks.py), whose outputs they reproduce. Images are not squashed by a tanh.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from spider.gan.networks.r3gan_config import EXPANSION, R3ganConfig
from spider.gan.networks.resample import double, halve, resampling_kernel
from spider.gan.networks.slicing import Sliceable, read_dense, said
from spider.gan.networks.told import told_embedding
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, DOut, GOut

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)

_SLOPE = 0.2
_BASE = 4  # pixels, where the networks begin and end
_GENERATOR_EMBEDDING = 64  # dimensions of a class, the authors' choice


class R3ganGenerator(nn.Module):
    """[N, d] -> GOut with images [N, C, H, W]."""

    def __init__(
        self,
        config: R3ganConfig,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        frontend: nn.Module | None = None,
    ) -> None:
        super().__init__()
        widths, groups = config.plan(image_shape, "generator")
        self.frontend = frontend if frontend is not None else nn.Identity()
        embedded = config.embedding_dim or _GENERATOR_EMBEDDING
        self.embedding = told_embedding(told, embedded, std=max(told.classes, 1) ** -0.5)
        dim = input_shape[0] + (embedded if self.embedding else 0)
        self.basis = nn.Parameter(torch.randn(widths[0], _BASE, _BASE))
        self.dense = _initialised(nn.Linear(dim, widths[0], bias=False))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *([] if i == 0 else [_Up(widths[i - 1], widths[i])]),
                *_blocks(widths[i], groups[i], config.blocks, config.blocks * len(widths)),
            )
            for i in range(len(widths))
        )
        self.to_image = _initialised(nn.Conv2d(widths[-1], image_shape[0], 1, bias=False))

    def forward(self, source: Tensor, condition: Condition) -> GOut:
        """See the class."""
        z = self.frontend(source)
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(condition)], dim=1)
        x = self.basis * self.dense(z)[:, :, None, None]  # [N, C0, 4, 4]
        for stage in self.stages:
            x = stage(x)
        return GOut(images=self.to_image(x))


class R3ganDiscriminator(Sliceable):
    """[N, C, H, W] -> DOut with logits [N, 1]."""

    def __init__(self, config: R3ganConfig, image_shape: tuple[int, int, int], told: ConditionShape) -> None:
        super().__init__()
        widths, groups = config.plan(image_shape, "discriminator")
        self.from_image = _initialised(nn.Conv2d(image_shape[0], widths[-1], 1, bias=False))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *_blocks(widths[i], groups[i], config.blocks, config.blocks * len(widths)),
                *([] if i == 0 else [_Down(widths[i], widths[i - 1])]),
            )
            for i in reversed(range(len(widths)))
        )
        self.basis = _initialised(nn.Conv2d(widths[0], widths[0], _BASE, groups=widths[0], bias=False))
        self.features = widths[0]
        dim = (config.embedding_dim or widths[0]) if told != UNCONDITIONAL else 1
        self.dense = _initialised(nn.Linear(widths[0], dim, bias=False))
        self.embedding = told_embedding(told, dim, std=(max(told.classes, 1) * dim) ** -0.5)

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        x = self.from_image(images)
        for stage in self.stages:
            x = stage(x)
        h = self.basis(x).flatten(1)  # [N, features]
        if self.embedding is None:
            judged = read_dense(h, self.dense.weight, sliced=self.sliced)
        else:
            judged = read_dense(self.dense(h), self.embedding(condition), sliced=self.sliced, of_each=True)
        return said([judged], {"last": h})

    def layers_from_images(self) -> list[list[nn.Module]]:
        """The first convolution, each block and each change of resolution, and the end, in order."""
        blocks = [[block] for stage in self.stages for block in stage.children() if list(block.parameters())]
        return [[self.from_image], *blocks, [self.basis, self.dense]]


class _Block(nn.Module):
    """x + W3 act(W2 act(W1 x)), the middle convolution in groups."""

    def __init__(self, channels: int, groups: int, gain: float) -> None:
        super().__init__()
        inner = channels * EXPANSION
        self.enter = _initialised(nn.Conv2d(channels, inner, 1, bias=False), gain)
        self.enter_bias = nn.Parameter(torch.zeros(inner))
        self.mix = _initialised(nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False), gain)
        self.mix_bias = nn.Parameter(torch.zeros(inner))
        self.leave = _initialised(nn.Conv2d(inner, channels, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        y = leaky_relu(self.enter(x) + self.enter_bias[:, None, None], _SLOPE)
        y = leaky_relu(self.mix(y) + self.mix_bias[:, None, None], _SLOPE)
        left: Tensor = self.leave(y)
        return x + left


class _Up(nn.Module):
    """[N, c, h, w] -> [N, C, 2 h, 2 w]; the channels change first, if they do."""

    kernel: Tensor

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.change = _change(channels_in, channels_out)
        self.register_buffer("kernel", resampling_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return double(self.change(x), self.kernel)


class _Down(nn.Module):
    """[N, c, 2 h, 2 w] -> [N, C, h, w]; the channels change last, if they do."""

    kernel: Tensor

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.change = _change(channels_in, channels_out)
        self.register_buffer("kernel", resampling_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        smaller: Tensor = self.change(halve(x, self.kernel))
        return smaller


def _blocks(channels: int, groups: int, count: int, in_network: int) -> list[nn.Module]:
    """Blocks of one resolution. The more blocks a network has, the smaller their weights begin."""
    gain = math.sqrt(2 / (1 + _SLOPE**2)) * in_network**-0.25
    return [_Block(channels, groups, gain) for _ in range(count)]


def _change(channels_in: int, channels_out: int) -> nn.Module:
    if channels_in == channels_out:
        return nn.Identity()
    return _initialised(nn.Conv2d(channels_in, channels_out, 1, bias=False))


def _initialised(layer: Layer, gain: float = 1.0) -> Layer:
    """Normal weights of standard deviation gain / sqrt(inputs of one output)."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    return layer
