"""FastGAN's discriminator (Liu et al. 2021): it judges an image and a smaller one, and tells maps to reconstruct from.

    images --3x3, or 4x4 down to 256 px--> --block, half the size--> ... --> [N, c, 8, 8] --1x1, 4x4--> 25 logits
    smaller images --4x4, half the size--> ... --> [N, c, 8, 8] --4x4--> 25 logits

A block is the mean of two ways: two convolutions, and one of the averaged map. The last three maps are multiplied by
gates of maps that are 8 times larger. Logits are those of the public implementation (odegeasslbc/FastGAN-pytorch,
models.py), for 256, 512 and 1024 px. Below 256 px, which it does not know, the network is the same from the map of that
side on, and the smaller image has half the side. `fastgan_discriminator_names` has its names of the weights; they, and
those of the decoders, begin by its laws (`spider.gan.networks.first_weights.begin_normal`).
What differs: batch norm is over the global batch, and spectral norms move with steps. By option (`norm`) CHAIN's
normalisation stands in the places of batch norms. Decoders, by which maps are held to what they see, join as an
auxiliary (`spider.gan.auxiliary.reconstruction`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, glu, interpolate, leaky_relu

from cluster.world import World
from spider.gan.networks.chain import CHAINS, Chain, Passage, draws_of
from spider.gan.networks.excitation import Gate, averaged
from spider.gan.networks.fastgan import SMALL
from spider.gan.networks.fastgan_config import FastganDiscriminatorConfig, small_side
from spider.gan.networks.first_weights import begin_normal
from spider.gan.networks.norm import batch_norm_as_torch
from spider.gan.networks.slicing import Sliceable, read_conv, said
from spider.gan.networks.spectral import SpectralConv, SpectralNetwork, without_spectral_norm
from spider.gan.outputs import Condition, DOut

_SLOPE = 0.2
_LAST = 8  # px, of the map that is judged
_GATES = (32, 16, 8)  # px, of maps that are gated, by those 8 times larger
_LARGEST = 256  # px, with which the blocks begin at most
_FACTORS = (4, 2, 2, 1)  # channels of a decoder after each doubling, times those of the last

Norm = Callable[[int], nn.Module]  # from a number of channels to a layer


class FastganDiscriminator(SpectralNetwork, Sliceable):
    """[N, C, H, W] and `Condition.sizes["small"]` -> DOut with logits [N, 50], half of them of the smaller image.

    Features: `last` [N, `features`], the mean of the map that is judged; and maps to reconstruct from: `trunk` and
    `small` [N, c, 8, 8], `inner` [N, c, 16, 16].
    """

    def __init__(self, config: FastganDiscriminatorConfig, image_shape: tuple[int, int, int], world: World) -> None:
        super().__init__("discriminator")
        channels, side = image_shape[0], config.side(image_shape)
        norm: Norm = partial(CHAINS[config.norm] if config.chained else batch_norm_as_torch, world=world)
        self.sizes = {SMALL: (small_side(side),) * 2}
        self.stem = nn.ModuleList(_stem(config, channels, side, norm))
        side = min(side, _LARGEST)
        self.top = side
        self.blocks = nn.ModuleDict()
        self.gates = nn.ModuleDict()
        while side > _LAST:
            side //= 2
            self.blocks[f"{side}"] = _Block(config.channels(4 * side), config.channels(2 * side), norm)
            if side in _GATES and 8 * side <= self.top:
                self.gates[f"{side}"] = Gate(config.channels(16 * side), config.channels(2 * side))
        self.features = config.channels(2 * _LAST)
        self.mix = _Layer(self.features, config.channels(_LAST), 1, 1, 0, norm)
        self.judge: nn.Conv2d = SpectralConv(config.channels(_LAST), 1, 4)
        self.small = nn.ModuleList(_small(config, channels, self.sizes[SMALL][0], norm))
        self.judge_small: nn.Conv2d = SpectralConv(config.channels(4 * _LAST), 1, 4)
        self._channels = {name: config.channels(4 * _LAST) for name in ("inner", "small")} | {"trunk": self.features}
        self._shown = channels
        self._world = world
        self.chains = [layer for layer in self.modules() if isinstance(layer, Chain)]  # which an auxiliary steers
        self.draws = draws_of(self.chains)
        begin_normal(self)

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        x, passage = images, Passage(self.chains, images, condition)
        for layer in self.stem:
            x = layer(x, passage)
        maps = {self.top: x}
        for name, block in self.blocks.items():
            side = int(name)
            x = block(x, passage)
            if name in self.gates:
                x = x * self.gates[name](maps[8 * side])
            maps[side] = x
        mixed, small = self.mix(x, passage), condition.sizes[SMALL]
        for layer in self.small:
            small = layer(small, passage)
        last = ((mixed, self.judge), (small, self.judge_small))
        judged = [read_conv(h, layer, sliced=self.sliced) for h, layer in last]
        told = {"last": x.mean((2, 3)), "trunk": x, "inner": maps[2 * _LAST], "small": small, **passage.told()}
        return said(judged, told)

    def slice(self) -> None:
        """See Sliceable. The layers that are sliced have no spectral norm."""
        super().slice()
        self.judge, self.judge_small = map(without_spectral_norm, (self.judge, self.judge_small))

    def decoders(self, channels: int, side: int) -> Decoders:
        """Decoders of the maps that are told, which end in so many channels and at that side in px."""
        return Decoders(self._channels, channels, self._shown, side, self._world)

    def layers_from_images(self) -> list[list[nn.Module]]:
        """The stem with the whole way of the smaller image, each block, and the end."""
        first = [*self.stem, *self.small]
        gated = [[block, *([self.gates[name]] if name in self.gates else [])] for name, block in self.blocks.items()]
        return [first, *gated, [self.mix, self.judge, self.judge_small]]


class _Layer(nn.Module):
    """A convolution, a normalisation where there is one, and a leaky ReLU. With CHAIN, which does not shift, a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, norm: Norm | None) -> None:
        super().__init__()
        normalisation = None if norm is None else norm(outputs)
        self.conv = SpectralConv(inputs, outputs, kernel, stride, padding, bias=isinstance(normalisation, Chain))
        self.norm = normalisation

    def forward(self, x: Tensor, passage: Passage) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        x = self.conv(x)
        if isinstance(self.norm, Chain):
            x = passage.through(self.norm, x)
        elif self.norm is not None:
            x = self.norm(x)
        return leaky_relu(x, _SLOPE)


class _Block(nn.Module):
    """[N, c, 2 h, 2 w] -> [N, C, h, w]."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.main = nn.ModuleList([_Layer(inputs, outputs, 4, 2, 1, norm), _Layer(outputs, outputs, 3, 1, 1, norm)])
        self.direct = _Layer(inputs, outputs, 1, 1, 0, norm)

    def forward(self, x: Tensor, passage: Passage) -> Tensor:
        """See the class."""
        first, second = self.main
        y = second(first(x, passage), passage)
        return cast(Tensor, (y + self.direct(avg_pool2d(x, 2), passage)) / 2)


def _stem(config: FastganDiscriminatorConfig, channels: int, side: int, norm: Norm) -> list[nn.Module]:
    """From images to the map with which the blocks begin."""
    if side <= _LARGEST:
        return [_Layer(channels, config.channels(2 * side), 3, 1, 1, None)]
    layers: list[nn.Module] = [_Layer(channels, config.channels(side), 4, 2, 1, None)]
    if side > 2 * _LARGEST:
        layers.append(_Layer(config.channels(side), config.channels(side // 2), 4, 2, 1, norm))
    return layers


def _small(config: FastganDiscriminatorConfig, channels: int, side: int, norm: Norm) -> list[nn.Module]:
    """From smaller images to [N, c, 8, 8]."""
    layers: list[nn.Module] = [_Layer(channels, config.channels(2 * side), 4, 2, 1, None)]
    while (side := side // 2) > _LAST:
        layers.append(_Layer(config.channels(4 * side), config.channels(2 * side), 4, 2, 1, norm))
    return layers


class Decoders(SpectralNetwork):
    """A decoder for each map of the discriminator: maps [N, c, h, w] by name -> images [N, C, side, side] by name."""

    def __init__(self, inputs: Mapping[str, int], channels: int, image_channels: int, side: int, world: World) -> None:
        super().__init__("discriminator")
        self.each = nn.ModuleDict({n: Decoder(c, channels, image_channels, side, world) for n, c in inputs.items()})
        begin_normal(self)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the class."""
        return {name: self.each[name](each) for name, each in maps.items()}


class Decoder(nn.Module):
    """[N, c, h, w], averaged to 8 x 8 places -> images [N, C, side, side] from -1 to 1."""

    def __init__(self, inputs: int, channels: int, image_channels: int, side: int, world: World) -> None:
        super().__init__()
        doublings = (side // _LAST).bit_length() - 1
        widths = [channels * factor for factor in _FACTORS[len(_FACTORS) - doublings :]]
        self.blocks = nn.ModuleList(_Doubling(n, out, world) for n, out in zip([inputs, *widths], widths, strict=False))
        self.to_image = SpectralConv(widths[-1] if widths else inputs, image_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = averaged(x, _LAST)
        for block in self.blocks:
            x = block(x)
        drawn: Tensor = self.to_image(x).tanh()
        return drawn


class _Doubling(nn.Module):
    """[N, c, h, w] -> [N, C, 2 h, 2 w]."""

    def __init__(self, inputs: int, outputs: int, world: World) -> None:
        super().__init__()
        self.conv = SpectralConv(inputs, 2 * outputs, 3, 1, 1)
        self.norm = batch_norm_as_torch(2 * outputs, world)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return glu(self.norm(self.conv(interpolate(x, scale_factor=2, mode="nearest"))), dim=1)
