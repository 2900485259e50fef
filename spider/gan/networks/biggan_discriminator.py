"""BigGAN's discriminator (Brock et al. 2019), a projection: the logit is (w + e) h + b.

    images --block, half the size--> ... --> [N, 16 ch, 4, 4] --block--> ReLU, summed over places: h [N, 16 ch]

A block is two times ReLU and 3x3, and beside it a 1x1; the first one begins without the ReLU. Self-attention follows
the block that ends at 64 px (32, of images of 64 px). e is of the class (Miyato and Koyama 2018), of the instance's
feature by a dense layer (IC-GAN), or, of both, half of e each; without either, one vector that is learnt. All layers
have spectral norm, and so has the table of classes, as one weight.

Outputs and gradients are those of the public code (see `spider.gan.networks.biggan`). 512 px, which that code generates
and does not judge, goes on as 256 px does, with another block of `ch` channels at the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from spider.gan.networks.attention import SelfAttention
from spider.gan.networks.biggan_config import BigganDiscriminatorConfig
from spider.gan.networks.doubling import convolve_halved
from spider.gan.networks.first_weights import begin_orthogonal
from spider.gan.networks.slicing import Sliceable, read_dense, said
from spider.gan.networks.spectral import (
    SpectralConv,
    SpectralEmbedding,
    SpectralLinear,
    SpectralNetwork,
    without_spectral_norm,
)
from spider.gan.networks.told import Told
from spider.gan.outputs import Condition, ConditionShape, DOut


class BigganDiscriminator(SpectralNetwork, Sliceable):
    """[N, C, H, W] in [-1, 1] -> DOut with logits [N, 1].

    Attributes:
        features: length of `DOut.features["last"]`, h.
    """

    def __init__(
        self, config: BigganDiscriminatorConfig, image_shape: tuple[int, int, int], told: ConditionShape
    ) -> None:
        super().__init__("discriminator")
        attended, (inputs, before, _) = config.attended(image_shape), image_shape
        self.blocks = nn.ModuleList()
        self.attention = nn.ModuleDict()
        for number, (side, outputs) in enumerate(config.plan(image_shape)):
            self.blocks.append(_Block(inputs, outputs, begins=number == 0, halves=side < before))
            if side in attended and side < before:
                self.attention[f"{number}"] = SelfAttention(outputs)
            inputs, before = outputs, side
        self.features = inputs
        has_class = told.classes > 0 or told.features == 0
        of_class = inputs // 2 if has_class and told.features else inputs
        self.told = Told(
            SpectralEmbedding(max(1, told.classes), of_class) if has_class else None,
            SpectralLinear(told.features, inputs - of_class if has_class else inputs) if told.features else None,
        )
        self.last: nn.Linear = SpectralLinear(inputs, 1)
        begin_orthogonal(self)

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        x = images
        for number, block in enumerate(self.blocks):
            x = block(x)
            if f"{number}" in self.attention:
                x = self.attention[f"{number}"](x)
        h = relu(x).sum((2, 3))
        last = self.last
        weight = (last.divided() if isinstance(last, SpectralLinear) else last.weight) + self.told(condition, len(h))
        return said([read_dense(h, weight, last.bias, sliced=self.sliced, of_each=True)], {"last": h})

    def slice(self) -> None:
        """See Sliceable. The layers that the direction is made of have no spectral norm."""
        super().slice()
        self.last, told = without_spectral_norm(self.last), self.told
        told.embedding = None if told.embedding is None else without_spectral_norm(told.embedding)
        told.instance = None if told.instance is None else without_spectral_norm(told.instance)

    def layers_from_images(self) -> list[list[nn.Module]]:
        """Each block with the attention that follows it, and the end."""
        attended = [[self.attention[f"{i}"]] if f"{i}" in self.attention else [] for i in range(len(self.blocks))]
        return [*([block, *more] for block, more in zip(self.blocks, attended, strict=True)), [self.last, self.told]]


class _Block(nn.Module):
    """[N, c, h, w] -> [N, C, h, w], or half of it. A 1x1 convolution before or after averages is the same."""

    def __init__(self, inputs: int, outputs: int, *, begins: bool, halves: bool) -> None:
        super().__init__()
        self.begins = begins
        self.halves = halves
        self.convs = nn.ModuleList(
            SpectralConv(n, out, 3, 1, 1, bias=True) for n, out in pairwise((inputs, outputs, outputs))
        )
        self.direct = SpectralConv(inputs, outputs, 1, bias=True) if halves or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        first, second = cast(Iterable[SpectralConv], self.convs)
        y = relu(first(x if self.begins else relu(x)))
        if self.halves:
            x, y = avg_pool2d(x, 2), convolve_halved(y, second.divided(), second.bias)
        else:
            y = second(y)
        joined: Tensor = y + self.direct(x)
        return joined
