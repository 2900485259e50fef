"""DCGAN and Spider DCGAN: the baselines of the authors' code, for any size that halves down to 4 to 7 pixels.

    vector [N, d] --dense--.
                           +--> [N, c0, b, b] --decoder--> image [N, C, H, W] in [-1, 1]
    image  [N, C, H, W] --encoder--'

Fed vectors it is DCGAN; fed images, the dense layer becomes a convolutional encoder and the decoder stays the same, so
that a comparison of sources compares nothing else. (The authors never published their image-fed layers, "deepconv".)

With classes, the generator is told by a vector that is joined to z, or to an image as constant channels; or by batch
normalisation with scales and shifts of each class. An instance is told by such a vector. The discriminator's logit is
w h + e(y) h, where h is what its last layer takes, w that layer and e(y) the vector of the class or the instance
(Miyato & Koyama 2018, equation 6). With spectral norm, that is of all layers but the vectors of classes and instances.
The public code of that paper (pfnet-research/sngan_projection, SNEmbedID) divides the table of classes by its norm too.

Layer plans, all kernels 5 x 5, LeakyReLU 0.3, Glorot-uniform weights, as in PolyLSGANs, arch/arch_base:
  mnist   decoder        256 -> 128 -> 64 up -> 32 -> C up -> C tanh
          discriminator  64 down, 64 down, 128 down, dense 50, dense 1; normalised after the activation
  celeba  decoder        1024 -> 512 up -> 256 up -> ... -> C up, tanh; no normalisation after the dense layer
          discriminator  64 down, 128 down, ..., dense 1
SN-GAN's (Miyato et al. 2018, Table 3) is of the discriminator alone. Kernels are 3 x 3, and 4 x 4 down; LeakyReLU 0.1:
  sngan   64, 64 down, 128, 128 down, 256, 256 down, 512, dense 1, of 32 to 63 px
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.networks.chain import CHAINS, Chain, Passage, draws_of
from spider.gan.networks.dcgan_config import DcganDiscriminatorConfig, DcganGeneratorConfig
from spider.gan.networks.norm import ClassBatchNorm, GlobalBatchNorm
from spider.gan.networks.slicing import Sliceable, read_dense, said
from spider.gan.networks.spectral import SpectralConv, SpectralLinear, SpectralNetwork, without_spectral_norm
from spider.gan.networks.told import told_embedding
from spider.gan.outputs import Condition, ConditionShape, DOut, GOut

_SLOPE = 0.3  # Keras's LeakyReLU, which the authors' networks use
_SNGAN_SLOPE = 0.1
_KERNEL = 5
_MNIST_UP_TO = 28  # px; the layer plan that `auto` takes


class DcganGenerator(nn.Module):
    """[N, d] or [N, C, H, W] -> GOut with images [N, C, H, W] in [-1, 1]."""

    def __init__(
        self,
        config: DcganGeneratorConfig,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        world: World,
        frontend: nn.Module | None = None,
    ) -> None:
        super().__init__()
        image_channels, height, width = image_shape
        layout = _resolve(config.layout, height)
        ups = 2 if layout == "mnist" else _halvings(height)
        base = (_divide(height, ups), _divide(width, ups))
        normed = 0 if config.joins_the_class else told.classes  # classes that normalisation heeds
        blocks = _Blocks(config.norm, world, normed)
        self.embedding = told_embedding(replace(told, classes=told.classes - normed), config.embedding_dim)
        channels_in = input_shape[0] + (config.embedding_dim if self.embedding else 0)

        def channels(full: int) -> int:
            return max(1, round(full * config.width))

        if layout == "mnist":
            plan = [(channels(128), 1), (channels(64), 2), (channels(32), 1), (image_channels, 2)]
            first, last_stride = channels(256), 1
        else:
            plan = [(channels(1024 >> i), 2) for i in range(1, ups)]
            first, last_stride = channels(1024), 2
        self.frontend = frontend if frontend is not None else nn.Identity()
        if len(input_shape) == 1:
            after: list[nn.Module] = blocks.activation(first) if layout == "mnist" else [nn.LeakyReLU(_SLOPE)]
            self.stem: nn.Module = _DenseStem(channels_in, first, base, after, bias=not blocks.norm)
        else:
            self.stem = _encoder(channels_in, first, ups, blocks)
        decoder: list[nn.Module] = []
        current = first
        for out, stride in plan:
            decoder += [blocks.up(current, out, stride), *blocks.activation(out)]
            current = out
        self.decoder = _Layers([*decoder, blocks.up(current, image_channels, last_stride), nn.Tanh()])
        _initialise(self.stem, self.decoder)

    def forward(self, source: Tensor, condition: Condition) -> GOut:
        """See the class."""
        x = self.frontend(source)
        if self.embedding is not None:
            vector = self.embedding(condition).to(x.dtype)
            x = torch.cat([x, vector.view(*vector.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])], dim=1)
        return GOut(images=self.decoder(self.stem(x, condition), condition))


class DcganDiscriminator(Sliceable):
    """[N, C, H, W] in [-1, 1] -> DOut with logits [N, 1]."""

    def __init__(
        self, config: DcganDiscriminatorConfig, image_shape: tuple[int, int, int], told: ConditionShape, world: World
    ) -> None:
        super().__init__()
        current, height, width = image_shape
        layout = _resolve(config.layout, height)
        blocks = _Blocks(config.norm, world, slope=_SNGAN_SLOPE if layout == "sngan" else _SLOPE)
        layers: list[nn.Module] = []
        for full, kernel, stride in _downwards(layout, height):
            out, padding = max(1, round(full * config.width)), (kernel - 1) // 2
            after = blocks.activation(out)
            layers += [blocks.down(current, out, kernel, stride), *(reversed(after) if layout == "mnist" else after)]
            height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
            current = out
        layers += [nn.Flatten()]
        flat = current * height * width
        if layout == "mnist":
            layers += [blocks.dense(flat, 50), nn.LeakyReLU(_SLOPE)]
            flat = 50
        self.layers = nn.Sequential(*layers, blocks.dense(flat, 1))
        self.draws = draws_of(self.chains)
        self.features = flat
        self.embedding = told_embedding(told, flat, std=flat**-0.5)
        _initialise(self.layers)

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        h, passage = images, Passage(self.chains, images, condition)
        for layer in self.layers[:-1]:
            h = passage.through(layer, h) if isinstance(layer, Chain) else layer(h)
        last = cast(nn.Linear, self.layers[-1])
        told = self.embedding is not None
        weight = last.divided() if isinstance(last, SpectralLinear) else last.weight
        weight = weight if self.embedding is None else weight + self.embedding(condition)
        return said([read_dense(h, weight, last.bias, sliced=self.sliced, of_each=told)], {"last": h, **passage.told()})

    def slice(self) -> None:
        """See Sliceable. The layer that is sliced has no spectral norm."""
        super().slice()
        self.layers[-1] = without_spectral_norm(self.layers[-1])

    @property
    def chains(self) -> list[Chain]:
        """The layers of CHAIN, in order, which an auxiliary steers."""
        return [layer for layer in self.layers if isinstance(layer, Chain)]

    def layers_from_images(self) -> list[list[nn.Module]]:
        """Each convolution and dense layer with what follows it, in order."""
        found: list[list[nn.Module]] = []
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                found.append([])
            found[-1].append(layer)
        return found


class SpectralDcganDiscriminator(DcganDiscriminator, SpectralNetwork):
    """One whose layers have spectral norm, and which makes a round of the power iteration after each of its steps.

    A class of its own because that makes it a Method, each of which has an entry in checkpoints: one without spectral
    norm has none.
    """


class _DenseStem(nn.Module):
    """[N, d] -> [N, c, b, b], and what comes `after`."""

    def __init__(self, dim: int, channels: int, base: tuple[int, int], after: list[nn.Module], bias: bool) -> None:
        super().__init__()
        self.base = base
        self.dense = nn.Linear(dim, channels * base[0] * base[1], bias=bias)
        self.after = _Layers(after)

    def forward(self, z: Tensor, condition: Condition) -> Tensor:
        """See the class."""
        return cast(Tensor, self.after(self.dense(z).unflatten(1, (-1, *self.base)), condition))


class _Layers(nn.ModuleList):
    """Layers in a row, some of which are told the condition."""

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """See the class."""
        for layer in self:
            x = layer(x, condition) if isinstance(layer, ClassBatchNorm) else layer(x)
        return x


class _Blocks:
    """The layers that both networks are made of, with or without normalisation, which may be that of a class."""

    def __init__(self, norm: str, world: World, classes: int = 0, slope: float = _SLOPE) -> None:
        self.norm = norm == "batch"
        self.spectral = norm == "spectral"
        self.slope = slope
        self.chain = CHAINS.get(norm)
        self.world = world
        self.classes = classes

    def up(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        """Transposed convolution, [N, c, h, w] -> [N, C, stride h, stride w]."""
        return nn.ConvTranspose2d(
            channels_in, channels_out, _KERNEL, stride, padding=2, output_padding=stride - 1, bias=not self.norm
        )

    def down(self, channels_in: int, channels_out: int, kernel: int = _KERNEL, stride: int = 2) -> nn.Module:
        """Convolution that keeps the side, but for its stride: [N, c, h, w] -> [N, C, h / stride, w / stride]."""
        padding = (kernel - 1) // 2
        if self.spectral:
            return SpectralConv(channels_in, channels_out, kernel, stride, padding, bias=True)
        return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=not self.norm)

    def dense(self, inputs: int, outputs: int) -> nn.Module:
        """[N, inputs] -> [N, outputs]."""
        return (SpectralLinear if self.spectral else nn.Linear)(inputs, outputs)

    def activation(self, channels: int) -> list[nn.Module]:
        """What follows every hidden layer."""
        act = nn.LeakyReLU(self.slope)
        if self.chain:
            return [self.chain(channels, self.world), act]
        if not self.norm:
            return [act]
        if self.classes:
            return [ClassBatchNorm(channels, self.classes, self.world), act]
        return [GlobalBatchNorm(channels, self.world), act]


def _encoder(channels_in: int, channels_out: int, halvings: int, blocks: _Blocks) -> nn.Module:
    """[N, C, H, W] -> [N, channels_out, H / 2^n, W / 2^n], channels doubling towards the end."""
    layers: list[nn.Module] = []
    for i in range(halvings):
        out = max(1, channels_out >> (halvings - 1 - i))
        layers += [blocks.down(channels_in, out), *blocks.activation(out)]
        channels_in = out
    return _Layers(layers)


def _downwards(layout: str, height: int) -> list[tuple[int, int, int]]:
    """The discriminator's convolutions: channels, kernel and stride."""
    if layout == "mnist":
        return [(channels, _KERNEL, 2) for channels in (64, 64, 128)]
    channels = [64 << i for i in range(_halvings(height))]
    if layout == "celeba":
        return [(full, _KERNEL, 2) for full in channels]
    return [*(layer for full in channels for layer in ((full, 3, 1), (full, 4, 2))), (2 * channels[-1], 3, 1)]


def _resolve(layout: str, height: int) -> str:
    return layout if layout != "auto" else ("mnist" if height <= _MNIST_UP_TO else "celeba")


def _halvings(height: int) -> int:
    """How often a side of `height` pixels halves until 4 to 7 are left."""
    return max(1, int(math.log2(height / 4)))


def _divide(side: int, ups: int) -> int:
    if side % (1 << ups):
        raise SpiderUsageError(
            f"generator.kind=dcgan upsamples {ups} times, so a side of {side} px must be a multiple of {1 << ups}: "
            "pack the data at another --resolution"
        )
    return side >> ups


def _initialise(*modules: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, Keras's defaults; spectral norms are found of these."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            if isinstance(layer, SpectralConv | SpectralLinear):
                layer.begin()
