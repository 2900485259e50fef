"""FastGAN's generator (Liu et al. 2021), in the three forms that are published.

    z [N, d] --transposed convolution--> [N, c4, 4, 4] --block, twice the size--> ... --> [N, c, H, W] --3x3--> images
    64 px and up: channels are multiplied by a gate of the map that is 16 times smaller

A block doubles the size. A layer of it is a convolution to twice the channels, noise, batch norm, and a gated linear
unit, which halves the channels. Forms (`form`):

- `projected`: two layers for each size; z is divided by the root of its mean square
  (autonomousvision/projected_gan, pg_modules/networks_fastgan.py).
- `lite`: one layer for each size and no noise; else as `projected`, which recommends it for fewer than 10,000 images.
- `original`: two layers at 8, 32, 128 and 512 px, one without noise at the other sizes; a second image of 128 px for
  the discriminator; a tanh at 1024 px only (odegeasslbc/FastGAN-pytorch, models.py).

Outputs, gradients and channels are theirs; images from 8 px are the same network ended earlier (as in Diffusion-GAN's
copy, at 32 and 64 px). Of `original` below 256 px the second image has half the side. Their names of the weights are in
`spider.gan.networks.fastgan_names`. What differs: batch norm is over the global batch; spectral norms move with steps
(`spider.gan.networks.spectral`); classes also work at 512 and 1024 px, where the public code fails; each layer's noise
has a strength of its own, also with classes. Weights begin as PyTorch's layers do, those of `original` as its code has
it (`spider.gan.networks.first_weights.begin_normal`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import glu

from cluster.world import World
from spider.gan.networks.doubling import convolve_doubled
from spider.gan.networks.excitation import Gate
from spider.gan.networks.fastgan_config import FastganGeneratorConfig, small_side
from spider.gan.networks.first_weights import begin_normal
from spider.gan.networks.norm import ToldBatchNorm, batch_norm_as_torch
from spider.gan.networks.spectral import SpectralConv, SpectralConvTranspose, SpectralNetwork
from spider.gan.networks.told import told_embedding
from spider.gan.outputs import Condition, ConditionShape, Draw, GOut

SMALL = "small"  # the name of the second image

_GATED = range(64, 513)  # px
_GATE = 16  # times smaller is the map that a gate looks at
_TANH = 1024  # px, from which the original ends in a tanh
_BASE = 4


class FastganGenerator(SpectralNetwork):
    """[N, d] -> GOut with images [N, C, H, W]; of form=original also `sizes["small"]`, [N, C, h, w]."""

    def __init__(
        self,
        config: FastganGeneratorConfig,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        world: World,
        frontend: nn.Module | None = None,
    ) -> None:
        super().__init__("generator")
        dim, sides, original = input_shape[0], config.sides(image_shape), config.form == "original"
        self.frontend = frontend if frontend is not None else nn.Identity()
        self.normalises = not original
        self.squashes = original and sides[-1] >= _TANH
        self.embedding = told_embedding(told, dim)
        heard = dim if self.embedding else 0
        self.start = SpectralConvTranspose(dim, 2 * config.channels(_BASE), _BASE)
        self.start_norm = batch_norm_as_torch(2 * config.channels(_BASE), world)
        self.blocks = nn.ModuleDict()
        self.gates = nn.ModuleDict()
        for before, side in pairwise(sides):
            count = config.layers(side)
            noise = side if count == 2 else 0
            self.blocks[f"{side}"] = _Block(config.channels(before), config.channels(side), count, noise, heard, world)
            if side in _GATED:
                self.gates[f"{side}"] = Gate(config.channels(side // _GATE), config.channels(side))
        self.noises = sum(block.noises for block in self._each())
        self.draws = {"noise": Draw("normal", (self.noises,))} if self.noises else {}
        self.to_image = SpectralConv(config.channels(sides[-1]), image_shape[0], 3, 1, 1, bias=not original)
        self.small_side = small_side(sides[-1])
        self.to_small = SpectralConv(config.channels(self.small_side), image_shape[0], 1) if original else None
        if original:
            for name, part in self.named_children():
                if name != "frontend":
                    begin_normal(part)

    def forward(self, source: Tensor, condition: Condition) -> GOut:
        """See the class."""
        z = self.frontend(source)
        z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt() if self.normalises else z
        told = None if self.embedding is None else self.embedding(condition).to(z.dtype)
        noise, used = condition.draws.get("noise"), 0
        x = glu(self.start_norm(self.start(z[:, :, None, None])), dim=1)
        maps, small = {_BASE: x}, None
        for name, block in self.blocks.items():
            side, block = int(name), cast(_Block, block)
            own = None if noise is None or not block.noises else noise[:, used : used + block.noises]
            used += block.noises
            x = block(x, own, told)
            if name in self.gates:
                x = x * self.gates[name](maps[side // _GATE])
            maps[side] = x
        images: Tensor = self.to_image(x)
        if self.to_small is not None:
            small = self.to_small(maps[self.small_side])
        if self.squashes:
            images, small = images.tanh(), None if small is None else small.tanh()
        return GOut(images, sizes={} if small is None else {SMALL: small})

    def _each(self) -> list[_Block]:
        return [cast(_Block, block) for block in self.blocks.values()]


class _Block(nn.Module):
    """[N, c, h, w] -> [N, C, 2 h, 2 w] in one or two layers.

    Attributes:
        noises: numbers of noise that an image has in all layers.
    """

    def __init__(self, inputs: int, outputs: int, layers: int, noise_side: int, told: int, world: World) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Layer(inputs if i == 0 else outputs, outputs, i == 0, noise_side > 0, told, world) for i in range(layers)
        )
        self.side = noise_side
        self.noises = layers * noise_side**2

    def forward(self, x: Tensor, noise: Tensor | None, told: Tensor | None) -> Tensor:
        """Noise [N, `noises`]; of a class its vector."""
        maps: Sequence[Tensor | None] = [None] * len(self.layers)
        if noise is not None:
            maps = noise.view(len(noise), len(self.layers), 1, self.side, self.side).unbind(1)
        for layer, each in zip(self.layers, maps, strict=True):
            x = layer(x, each, told)
        return x


class _Layer(nn.Module):
    """A convolution, of the first layer of a block after a doubling, noise, batch norm, and a gated linear unit.

    [N, c, h, w] -> [N, C, H, W]
    """

    def __init__(self, inputs: int, outputs: int, doubles: bool, noise: bool, told: int, world: World) -> None:
        super().__init__()
        self.doubles = doubles
        self.conv = SpectralConv(inputs, 2 * outputs, 3, 1, 1)
        self.noise_strength = nn.Parameter(torch.zeros(1)) if noise else None
        self.norm = ToldBatchNorm(2 * outputs, told, world) if told else batch_norm_as_torch(2 * outputs, world)

    def forward(self, x: Tensor, noise: Tensor | None, told: Tensor | None) -> Tensor:
        """See the class."""
        x = convolve_doubled(x, self.conv.divided(), None) if self.doubles else self.conv(x)
        if self.noise_strength is not None and noise is not None:
            x = x + (noise * self.noise_strength).to(x.dtype)
        x = self.norm(x) if told is None else self.norm(x, told)
        return glu(x, dim=1)
