"""BigGAN's generator (Brock et al. 2019), and that of IC-GAN, which is told an instance (Casanova et al. 2021).

    z [N, d], split in parts --first part, dense--> [N, 16 ch, 4, 4]
    --block, told [condition, next part], twice the size--> ... --> [N, c, H, W] --batch norm, ReLU, 3x3, tanh--> images

A block is two times told batch norm, ReLU and 3x3, and beside it a 1x1; self-attention follows the block of 64 px (32,
of images of 64 px). The condition is a vector of the class, a dense layer of the instance's feature, or both side by
side; without either it is one vector that is learnt, as of IC-GAN's unconditional baseline, where all have label 0.

Outputs, gradients and channels are those of the public code (ajbrock/BigGAN-PyTorch, BigGAN.py; its form in
facebookresearch/ic_gan), whose names of the weights are in `spider.gan.networks.biggan_names`. What differs: batch norm
is over all ranks, where each GPU there has its own; spectral norms move with steps (`spider.gan.networks.spectral`); at
32 px the class has one vector for all blocks, and weights begin orthogonal there too.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from cluster.world import World
from spider.gan.networks.attention import SelfAttention
from spider.gan.networks.biggan_config import BigganGeneratorConfig
from spider.gan.networks.classes import ClassEmbedding
from spider.gan.networks.doubling import convolve_doubled
from spider.gan.networks.first_weights import begin_orthogonal
from spider.gan.networks.norm import ToldBatchNorm, batch_norm_as_torch
from spider.gan.networks.spectral import SpectralConv, SpectralLinear, SpectralNetwork
from spider.gan.networks.told import Told
from spider.gan.outputs import Condition, ConditionShape, GOut

_BASE = 4


class BigganGenerator(SpectralNetwork):
    """[N, d] -> GOut with images [N, C, H, W] in [-1, 1]."""

    def __init__(
        self,
        config: BigganGeneratorConfig,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        world: World,
        frontend: nn.Module | None = None,
    ) -> None:
        super().__init__("generator")
        plan, attended = config.plan(image_shape), config.attended(image_shape)
        self.parts = config.parts(input_shape[0], len(plan) - 1)
        has_class = told.classes > 0 or told.features == 0
        self.told = Told(
            ClassEmbedding(max(1, told.classes), config.embedding_dim) if has_class else None,
            SpectralLinear(told.features, config.instance_dim) if told.features else None,
        )
        self.start = SpectralLinear(self.parts[0], plan[0][1] * _BASE**2)
        self.blocks = nn.ModuleDict()
        self.attention = nn.ModuleDict()
        for (_, inputs), (side, outputs), part in zip(plan, plan[1:], self.parts[1:], strict=False):
            self.blocks[f"{side}"] = _Block(inputs, outputs, self.told.dim + part, world)
            if side in attended:
                self.attention[f"{side}"] = SelfAttention(outputs)
        self.norm = batch_norm_as_torch(plan[-1][1], world)
        self.to_image = SpectralConv(plan[-1][1], image_shape[0], 3, 1, 1, bias=True)
        begin_orthogonal(self)
        self.frontend = frontend if frontend is not None else nn.Identity()

    def forward(self, source: Tensor, condition: Condition) -> GOut:
        """See the class."""
        first, *others = self.frontend(source).split(self.parts, dim=1)
        told = self.told(condition, len(first)).to(first.dtype)
        x = self.start(first).unflatten(1, (-1, _BASE, _BASE))
        for (side, block), part in zip(self.blocks.items(), others, strict=True):
            x = block(x, torch.cat([told, part], dim=1))
            if side in self.attention:
                x = self.attention[side](x)
        return GOut(self.to_image(relu(self.norm(x))).tanh())


class _Block(nn.Module):
    """[N, c, h, w] -> [N, C, 2 h, 2 w]. A 1x1 convolution before or after doubling is the same, and after it dearer."""

    def __init__(self, inputs: int, outputs: int, told: int, world: World) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ToldBatchNorm(each, told, world, bias=False) for each in (inputs, outputs))
        self.convs = nn.ModuleList(
            SpectralConv(n, out, 3, 1, 1, bias=True) for n, out in pairwise((inputs, outputs, outputs))
        )
        self.direct = SpectralConv(inputs, outputs, 1, bias=True)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """`told`: [N, d]."""
        first, second = cast(Iterable[SpectralConv], self.convs)
        y = convolve_doubled(relu(self.norms[0](x, told)), first.divided(), first.bias)
        y = second(relu(self.norms[1](y, told)))
        joined: Tensor = y + interpolate(self.direct(x), scale_factor=2, mode="nearest")
        return joined
