"""StyleGAN2's generator and discriminator (Karras et al. 2020), as in the code of StyleGAN2-ADA.

    z [N, d] (, class) --mapping--> w [N, w_dim] --its copy for each layer--> ws [N, L, w_dim]
    const [C0, H0, W0] --conv1(w)--> --block(w), twice the size--> ... --> [N, Cn, H, W]    images: sums of to_image(w)
    images --from_image--> [N, Cn, H, W] --block, half the size--> ... --> [N, C0, H0, W0] --std, conv, dense--> logit

H0 and W0 are 4 for squares of 4, 8, 16, ... px, as published. Other shapes have others: `Stylegan2Config.plan`.

Outputs, gradients and initial laws are those of the public implementation (NVlabs/stylegan2-ada-pytorch,
training/networks.py). `spider.gan.networks.stylegan2_names` has its names of the weights. What differs: the layer from
which style mixing takes the second w is drawn for each image, and not once for a micro-batch, so that an image is the
same in any batch; w's mean is over the global batch, moves with steps that were taken, and is the same on all ranks;
half precision is bfloat16, and none on a CPU, as there. Images are not squashed by a tanh.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from cluster.world import World
from spider.gan.networks.batch_std import BatchStd
from spider.gan.networks.equalized import GAIN, EqualConv, EqualLinear, ModulatedConv, activated
from spider.gan.networks.mapping import Mapping, StyledGenerator
from spider.gan.networks.resample import double, halve, resampling_kernel
from spider.gan.networks.slicing import Sliceable, read_dense, said
from spider.gan.networks.stylegan_config import Stylegan2DiscriminatorConfig, Stylegan2GeneratorConfig
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape, DOut, Draw, GOut
from spider.precision import at_least_float32, half_dtype, without_autocast

_RESIDUAL = math.sqrt(0.5)  # of both branches of a residual block, so that their sum keeps the power


class Stylegan2Generator(StyledGenerator):
    """[N, d] -> GOut with images [N, C, H, W] and latents ws [N, L, w_dim], one w for each layer."""

    def __init__(
        self,
        config: Stylegan2GeneratorConfig,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        frontend: nn.Module | None = None,
    ) -> None:
        super().__init__(config, input_shape, told, frontend)
        self.synthesis = Synthesis(config, image_shape)
        self.layers = self.synthesis.layers
        convolutions = [max(size) for size in self.synthesis.noise_sizes]
        self.layer_sides = [*convolutions, convolutions[-1]]  # the last makes the image
        self.style_mixing = config.style_mixing
        self.mixes_gaussian = config.mixing_source == "gaussian"
        self.noise_sizes = () if config.noise == "none" else self.synthesis.noise_sizes
        self.draws: dict[str, Draw] = {}
        if config.noise == "random":
            self.draws["noise"] = Draw("normal", (self.synthesis.noises,))
        if config.style_mixing:
            self.draws["mixing.source"] = Draw("normal", input_shape) if self.mixes_gaussian else Draw("source")
            self.draws["mixing.layer"] = Draw("uniform", (2,))

    def forward(self, source: Tensor, condition: Condition) -> GOut:
        """See the class."""
        w = self.to_w(source, condition)
        ws = self.for_layers(w, condition, self.truncation)
        if self.training and self.style_mixing:
            ws = self._mixed(ws, condition)
        return GOut(self.synthesis(ws, condition.draws.get("noise")), latents=ws, keep={"w": w})

    def noise(self, condition: Condition) -> Tensor | None:
        """See StyledGenerator: [N, numbers] where it is drawn, [1, numbers] where it is constant."""
        if not self.noise_sizes:
            return None
        drawn = condition.draws.get("noise")
        return self.synthesis.constant_noise() if drawn is None else drawn

    def from_ws(self, ws: Tensor, noise: Tensor | None) -> Tensor:
        """[N, L, w_dim] -> images [N, C, H, W]; noise as `Synthesis` takes it."""
        images: Tensor = self.synthesis(ws, noise)
        return images

    def _mixed(self, ws: Tensor, condition: Condition) -> Tensor:
        """Some images take the w of another input in their layers from a random one on."""
        other = condition.draws["mixing.source"]
        other = self.mapping(other if self.mixes_gaussian else self.frontend(other), condition)
        whether, where = condition.draws["mixing.layer"].unbind(1)
        layers = self.layers
        first = torch.where(whether < self.style_mixing, 1 + (where * (layers - 1)).floor(), layers)  # 1 .. L - 1, or L
        own = torch.arange(layers, device=ws.device) < first[:, None]
        return torch.where(own[:, :, None], ws, other[:, None])


class Synthesis(nn.Module):
    """ws [N, L, w_dim] -> images [N, C, H, W].

    Attributes:
        layers: L, how many w an image has: one for each convolution, and one for the last step to an image.
        noise_sizes: height and width of the map of noise of each convolution, in px.
        noises: numbers of noise that an image has in all layers together.
    """

    kernel: Tensor

    def __init__(self, config: Stylegan2GeneratorConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        plan = config.plan(image_shape)
        self.const = nn.Parameter(torch.randn(plan[0][1], *plan[0][0]))
        self.blocks = nn.ModuleList()
        inputs = 0
        for size, channels, bf16 in plan:
            shown = config.architecture == "skip" or size == plan[-1][0]
            self.blocks.append(_Up(config, inputs, channels, size, image_shape[0] if shown else 0, bf16))
            inputs = channels
        self.layers = 2 * len(plan)
        self.noise_sizes = [size for size, *_ in plan for _ in range(2)][1:]  # the first resolution has one layer
        self.noises = sum(height * width for height, width in self.noise_sizes)
        self.register_buffer("kernel", resampling_kernel(), persistent=False)

    def forward(self, ws: Tensor, noise: Tensor | None) -> Tensor:
        """Noise [N, `noises`], where each image has its own."""
        x = self.const.to(ws.dtype).expand(ws.shape[0], -1, -1, -1)
        images: Tensor | None = None
        at, used = 0, 0
        for block in cast(Iterable[_Up], self.blocks):
            count, (height, width) = len(block.layers), block.size
            maps: Sequence[Tensor | None] = [None] * count
            if noise is not None:
                end = used + count * height * width
                maps = noise[:, used:end].reshape(-1, count, 1, height, width).unbind(1)
                used = end
            x = block(x, ws[:, at:], maps)
            at += count
            with without_autocast(ws):  # the sum of images is not rounded
                images = None if images is None else double(images, self.kernel)
            if block.to_image is not None:
                images = _sum(images, block.to_image(x, ws[:, at]).to(ws.dtype))
        return _sum(images)

    def constant_noise(self) -> Tensor:
        """The noise that all images have, where it is constant: [1, `noises`]."""
        maps = [layer.noise_const for block in cast(Iterable[_Up], self.blocks) for layer in block.style_layers]
        return torch.cat([each.flatten() for each in maps])[None]


class _Up(nn.Module):
    """One resolution: [N, c, h, w] -> [N, C, 2 h, 2 w], the same size for the first; and what shows it as an image."""

    def __init__(
        self,
        config: Stylegan2GeneratorConfig,
        inputs: int,
        channels: int,
        size: tuple[int, int],
        image_channels: int,
        bf16: bool,
    ) -> None:
        super().__init__()
        first = [] if inputs == 0 else [_StyleLayer(config, inputs, channels, size, up=True)]
        self.layers = nn.ModuleList([*first, _StyleLayer(config, channels, channels, size)])
        residual = config.architecture == "resnet" and inputs > 0
        self.skip = EqualConv(inputs, channels, 1, resample="double", plain=True) if residual else None
        self.to_image = _ToImage(config, channels, image_channels) if image_channels else None
        self.size = size
        self.bf16 = bf16

    @property
    def style_layers(self) -> Iterable[_StyleLayer]:
        """Those that add noise."""
        return cast(Iterable[_StyleLayer], self.layers)

    def forward(self, x: Tensor, ws: Tensor, noises: Sequence[Tensor | None]) -> Tensor:
        """Each layer has its w, ws[:, i], and its noise [N, 1, H, W]."""
        x = x.to(half_dtype(ws) if self.bf16 else ws.dtype)
        added = None if self.skip is None else self.skip(x, _RESIDUAL)
        for i, layer in enumerate(self.layers):
            last = added is not None and i == len(self.layers) - 1
            x = layer(x, ws[:, i], noises[i], _RESIDUAL if last else 1.0)
        return _sum(added, x)


class _StyleLayer(nn.Module):
    """A modulated convolution, noise and a bias, activated."""

    noise_const: Tensor

    def __init__(
        self,
        config: Stylegan2GeneratorConfig,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        *,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, config.w_dim, up=up)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.clamp = config.conv_clamp
        self.noise = config.noise
        if self.noise != "none":
            self.noise_strength = nn.Parameter(torch.zeros(()))
        if self.noise == "const":
            self.register_buffer("noise_const", torch.randn(*size))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, gain: float) -> Tensor:
        """The result times `gain`."""
        x = self.conv(x, w, self.bias, gain * GAIN)
        if self.noise != "none":
            noise = self.noise_const if noise is None else noise
            x = x + (noise * (self.noise_strength * (gain * GAIN))).to(x.dtype)
        return activated(x, None if self.clamp is None else self.clamp * gain)


class _ToImage(nn.Module):
    """[N, channels, H, W], w [N, w_dim] -> [N, image channels, H, W]."""

    def __init__(self, config: Stylegan2GeneratorConfig, channels: int, image_channels: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, image_channels, 1, config.w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(image_channels))
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        images: Tensor = self.conv(x, w, self.bias)
        return images if self.clamp is None else images.clamp(-self.clamp, self.clamp)


class Stylegan2Discriminator(Sliceable):
    """[N, C, H, W] -> DOut with logits [N, 1].

    Attributes:
        map_features: length of `DOut.features["map"]`, the mean of the last map, before its deviations are told.
    """

    kernel: Tensor

    def __init__(
        self,
        config: Stylegan2DiscriminatorConfig,
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        world: World,
    ) -> None:
        super().__init__()
        plan = config.plan(image_shape)
        self.features = self.map_features = plan[0][1]
        timed = config.told_time
        compares = told != UNCONDITIONAL or timed
        self.mapping = Mapping(0, told, self.features, config.mapping_layers, timed=timed) if compares else None
        self.skips = config.architecture == "skip"
        (height, width), top = plan[0][0], plan[-1][0]
        self.blocks = nn.ModuleList(  # from the smallest up, so that a larger network has the names of a smaller one
            _Down(config, channels, smaller, image_shape[0] if self.skips or size == top else 0, bf16)
            for (_, smaller, _), (size, channels, bf16) in pairwise(plan)
        )
        shown = self.skips or len(plan) == 1
        self.from_image = EqualConv(image_shape[0], self.features, 1) if shown else None  # never clamped there either
        group = config.mbstd_group
        self.std = None if group is None else BatchStd(group, config.mbstd_features, world)
        deviations = 0 if group is None else config.mbstd_features
        self.conv = EqualConv(self.features + deviations, self.features, 3, clamp=config.conv_clamp)
        self.dense = EqualLinear(height * width * self.features, self.features, activate=True)
        self.out = EqualLinear(self.features, self.features if compares else 1)
        if self.skips:
            self.register_buffer("kernel", resampling_kernel(), persistent=False)

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        images = at_least_float32(images)
        x: Tensor | None = None
        for block in reversed(self.blocks):
            x = block(x, images)
            images = halve(images, self.kernel) if self.skips else images
        with without_autocast(images):  # no part of the end is rounded
            return self._judged(None if x is None else x.to(images.dtype), images, condition)

    def _judged(self, x: Tensor | None, images: Tensor, condition: Condition) -> DOut:
        """What is said of the last map [N, map_features, H0, W0], or of images of that size, or of both."""
        x = _sum(x, None if self.from_image is None else self.from_image(images))
        whole = x.mean((2, 3))  # [N, map_features]
        x = x if self.std is None else self.std(x)
        h = self.dense(self.conv(x).flatten(1))  # [N, features]
        if self.mapping is None:
            judged = read_dense(h, self.out.weight / math.sqrt(self.features), self.out.bias, sliced=self.sliced)
        else:
            told = self.mapping(None, condition) / math.sqrt(self.features)
            judged = read_dense(self.out(h), told, sliced=self.sliced, of_each=True)
        return said([judged], {"last": h, "map": whole})

    def judge_alone(self) -> None:
        """From now on take any number of images, on one rank: each is a group of its own. Maps stay what they were."""
        if self.std is not None:
            self.std.group = 1

    def layers_from_images(self) -> list[list[nn.Module]]:
        """As the public implementation numbers them: the first layer, those of each block, and the end as one."""
        layers = [[layer] for block in reversed(self.blocks) for layer in block.children()]
        end = [self.from_image, self.conv, self.dense, self.out, self.mapping]
        return [*layers, [module for module in end if module is not None]]


class _Down(nn.Module):
    """[N, c, 2 h, 2 w], or an image of that size, or both -> [N, C, h, w]."""

    def __init__(
        self, config: Stylegan2DiscriminatorConfig, inputs: int, outputs: int, image_channels: int, bf16: bool
    ) -> None:
        super().__init__()
        clamp = config.conv_clamp
        self.from_image = EqualConv(image_channels, inputs, 1, clamp=clamp) if image_channels else None
        self.conv0 = EqualConv(inputs, inputs, 3, clamp=clamp)
        self.conv1 = EqualConv(inputs, outputs, 3, resample="half", clamp=clamp)
        residual = config.architecture == "resnet"
        self.skip = EqualConv(inputs, outputs, 1, resample="half", plain=True) if residual else None
        self.bf16 = bf16

    def forward(self, x: Tensor | None, images: Tensor) -> Tensor:
        """See the class."""
        dtype = half_dtype(images) if self.bf16 else images.dtype
        x = None if x is None else x.to(dtype)
        x = _sum(x, None if self.from_image is None else self.from_image(images.to(dtype)))
        if self.skip is None:
            return cast(Tensor, self.conv1(self.conv0(x)))
        return _sum(self.skip(x, _RESIDUAL), self.conv1(self.conv0(x), _RESIDUAL))


def _sum(*parts: Tensor | None) -> Tensor:
    """Of those that are there."""
    return reduce(torch.add, [part for part in parts if part is not None])
