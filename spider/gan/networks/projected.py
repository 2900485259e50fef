"""A discriminator that looks through a pretrained network (Projected GAN, Sauer et al. 2021).

    images --EfficientNet-Lite0, frozen--> maps of 1/4, 1/8, 1/16, 1/32 of the side
    --1x1 convolutions of random weights, frozen--> 64, 128, 256, 512 channels                   (mixing of channels)
    --from the smallest on: twice the size, 1x1, added to the next larger one, frozen--> 4 maps  (mixing of scales)
    map of 1/2, 1/4, 1/8, 1/16 of the side --a head each, trained--> 25 logits each at 256 px, 16 at 224 px

A head halves the map until it is 1/32 of the side (convolutions of 4x4, batch norm, leaky ReLU), and a last convolution
of 4x4 judges each place. With classes it judges by the product with a vector of the class (Miyato and Koyama 2018).

Outputs, gradients and channels are those of the public implementation (autonomousvision/projected_gan, pg_modules/
projector.py and discriminator.py), whose names of the weights are in `spider.gan.networks.projected_names`. What
differs: batch norm is over the global batch, spectral norms move with steps (`spider.gan.networks.spectral`), and grey
images are shown as RGB. As there, images come to the network from -1 to 1, whatever it was trained on, and those of
less than 224 px are enlarged, by their shorter side. DiffAugment, which goes with it, is an augmentation like others.

The random weights are drawn like all first weights, by the run's seed, and saved with the run. The pretrained ones are
not: the checkpoint holds their digest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

from cluster.world import World
from spider.backbones.efficientnet_lite0 import CHANNELS, read_efficientnet_lite0
from spider.gan.networks.classes import ClassEmbedding
from spider.gan.networks.norm import batch_norm_as_torch
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.slicing import Judged, Sliceable, read, read_conv, said
from spider.gan.networks.spectral import SpectralConv, SpectralNetwork, without_spectral_norm
from spider.gan.networks.told import told_embedding
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, DOut, Draw

_SLOPE = 0.2
_CLASS_MAPS = 64  # maps that are compared with a class
_SCALES = len(CHANNELS)


class ProjectedDiscriminator(SpectralNetwork, Sliceable):
    """[N, C, H, W], C = 1 or 3 -> DOut with logits [N, P], of all heads one after the other.

    Attributes:
        features: length of `DOut.features["last"]`, the mean of the smallest map that the last head judges.
    """

    def __init__(
        self,
        config: ProjectedDiscriminatorConfig,
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        world: World,
    ) -> None:
        super().__init__("discriminator")
        self.size = config.seen_size(image_shape)
        place = None if config.weights is None else Path(config.weights)
        self.backbone, _ = read_efficientnet_lite0(place)
        self.mixing = Mixing(CHANNELS, config.mixed_channels)
        self.heads = Heads(config, self.mixing.channels, told, world)
        self.features = self.heads.features
        self.noised = config.noised
        self.noise_std = config.noise_std
        seen = self.size if self.size is not None else image_shape[1:]
        self.noisy_maps = config.noisy_maps(CHANNELS, self.mixing.channels, seen)
        self.draws = {}
        if self.noisy_maps:
            self.draws["noise"] = Draw("normal", (sum(map(math.prod, self.noisy_maps)),))

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        x = images.expand(-1, 3, -1, -1)
        if self.size is not None:
            x = interpolate(x, self.size, mode="bilinear", align_corners=False)
        maps = self.backbone.stages(x)
        maps = self._noisy(maps, condition) if self.noised == "first" else maps
        maps = self.mixing(maps)
        maps = self._noisy(maps, condition) if self.noised == "last" else maps
        judged: DOut = self.heads(maps, condition)
        return judged

    def _noisy(self, maps: Sequence[Tensor], condition: Condition) -> list[Tensor]:
        if condition.time is None:
            return [*maps]
        noise = torch.split(condition.draws["noise"], [math.prod(shape) for shape in self.noisy_maps], dim=1)
        return noisy(maps, condition.time, noise, self.noise_std)

    def slice(self) -> None:
        """See Sliceable."""
        self.heads.slice()

    def layers_from_images(self) -> list[list[nn.Module]]:
        """For each number of halvings, the layers of all heads that come so many before the end; then the end."""
        return self.heads.layers_from_images()


def noisy(maps: Sequence[Tensor], shares: Tensor, noise: Sequence[Tensor], std: float) -> list[Tensor]:
    """sqrt(1 - v) x + sqrt(v) std n of each channel x of each image's maps.

    Args:
        shares: v, [N, at least as many as the maps have channels], in their order.
        noise: n, standard normal, as many numbers as each map has.
    """
    found, used = [], 0
    for x, n in zip(maps, noise, strict=True):
        v = shares[:, used : used + x.shape[1], None, None].to(x.dtype)
        found.append((1 - v).sqrt() * x + v.sqrt() * std * n.view(x.shape).to(x.dtype))
        used += x.shape[1]
    return found


class Mixing(nn.Module):
    """Maps of a pretrained network, from the largest to the smallest -> maps of twice their sizes, [N, C, 2 h, 2 w].

    Attributes:
        channels: of its maps.
    """

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        wide = [channels << level for level in range(len(inputs))]
        self.channels = [max(channels, each // 2) for each in wide]
        self.of_channels = nn.ModuleList(nn.Conv2d(n, out, 1) for n, out in zip(inputs, wide, strict=True))
        self.of_scales = nn.ModuleList(nn.Conv2d(n, out, 1) for n, out in zip(wide, self.channels, strict=True))
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """See the class."""
        return self.scales([mix(each) for mix, each in zip(self.of_channels, maps, strict=True)])

    def scales(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of maps whose channels are mixed."""
        mixed: list[Tensor] = []
        for mix, each in zip(reversed(self.of_scales), reversed(maps), strict=True):
            whole = each if not mixed else each + mixed[0]
            mixed.insert(0, mix(interpolate(whole, scale_factor=2, mode="bilinear", align_corners=True)))
        return mixed


class Heads(Sliceable):
    """Mixed maps, from the largest on -> the judgement of all."""

    def __init__(
        self, config: ProjectedDiscriminatorConfig, channels: Sequence[int], told: ConditionShape, world: World
    ) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            _Head(channels[scale], [config.channels(level) for level in range(_SCALES - scale)], config, told, world)
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
        found: list[list[nn.Module]] = [[] for _ in range(_SCALES + 1)]
        for head in self.each:
            assert isinstance(head, _Head)
            for before_end, block in enumerate(reversed(head.blocks), 1):
                found[_SCALES - before_end].append(block)
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
        self.to_class = nn.Linear(config.embedding_dim, _CLASS_MAPS) if self.embedding else None

    def forward(self, x: Tensor, condition: Condition) -> tuple[Judged, Tensor]:
        """See the class."""
        for block in self.blocks:
            x = block(x)
        if self.embedding is None:
            return read_conv(x, self.last, sliced=self.sliced), x
        told = self.embedding(condition)
        told = told if self.to_class is None else leaky_relu(self.to_class(told), _SLOPE)
        return read(_in_places, self.last(x), told / math.sqrt(_CLASS_MAPS), sliced=self.sliced), x

    def slice(self) -> None:
        """See Sliceable: as in StyleSAN-XL the direction has no spectral norm, and that of a class no layers."""
        super().slice()
        if self.embedding is None:
            self.last = without_spectral_norm(self.last)
        elif self.to_class is not None and isinstance(self.embedding, ClassEmbedding):
            with torch.no_grad():
                told = leaky_relu(self.to_class(self.embedding.weight), _SLOPE)
            self.embedding.weight, self.to_class = nn.Parameter(told), None


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
