"""StyleGAN3's generator (Karras et al. 2021): what it draws follows its input, and does not stick to pixels.

    z [N, d] (, class) --mapping--> w [N, w_dim] --its copy for each layer--> ws [N, L, w_dim]
    waves, moved by w --> layer: modulated convolution, filtered leaky ReLU --> ... --> 1x1, times 1/4 --> images

Layers go from band to band (`bands`): each knows frequencies up to a cutoff and stops somewhat above it. All but the
last two layers make a margin around what is shown. Outputs, gradients and initial laws are those of the public
implementation (NVlabs/stylegan3, training/networks_stylegan3.py). `spider.gan.networks.stylegan3_names` has
its names of the weights. Its discriminator is StyleGAN2's.

StyleGAN-XL's generator (Sauer et al. 2022, autonomousvision/stylegan-xl, training/networks_stylegan3_resetting.py) is
this one with other settings: vectors of classes, a mean of w for each class, and growth. A grown generator is a stem
and heads, each of which takes what the layers before it give, without those that keep the finest detail and make the
image. Names of weights are the same in a stem alone and in what grew from it, so `--init` of the stem's run fits.

What differs: each layer divides its input by the root of a mean square, which moves here by the global batch, after
the discriminator's main steps that were taken, and is the same on all ranks. The public code moves it within the
forward pass, before it is used, and every rank has its own: rank 0's is saved. The same holds for the mean of w. Half
precision is bfloat16, and none on a CPU, as there; filters have none. Images are not squashed by a tanh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from spider.gan.method import Kept
from spider.gan.networks.bands import Band, plan, stages
from spider.gan.networks.equalized import GAIN, EqualLinear, ModulatedConv
from spider.gan.networks.filtered import TAPS, FilteredLeakyReLU, lowpass
from spider.gan.networks.mapping import StyledGenerator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.outputs import Condition, ConditionShape, GOut
from spider.precision import at_least_float32, half_dtype, without_autocast

_OUTPUT_SCALE = 0.25


class Stylegan3Generator(StyledGenerator):
    """[N, d] -> GOut with images [N, C, H, H] and latents ws [N, L, w_dim]: one for the input, one for each layer."""

    def __init__(
        self,
        config: Stylegan3GeneratorConfig,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        frontend: nn.Module | None = None,
    ) -> None:
        super().__init__(config, input_shape, told, frontend, class_dim=config.class_dim)
        if config.w_avg_of == "class" and told.classes:
            self.w_avg = torch.zeros(told.classes, config.w_dim)
        self.synthesis = Synthesis(config, image_shape)
        bands = plan(config, image_shape)
        self.layer_sides = [bands[0].rate, *(band.rate for band in bands)]
        self.layers = len(self.layer_sides)
        self.frozen_layers = 0  # whose mean squares stay as well
        self.must_be_given: list[str] = []  # tensors that are random for good unless a run begins with given ones
        self.growth: tuple[str, str] | None = None  # see `spider.gan.init.freeze.Expected`
        if config.sides[1:]:
            lists = ["synthesis.layers.", *(f"synthesis.heads.{head}." for head in range(len(config.sides) - 1))]
            self.growth = lists[-1], lists[-2]
        if config.sides[1:] and config.stem != "trains":
            self._freeze_stem(with_input=config.stem == "frozen")
        half_life = config.magnitude_half_life_kimg
        self.magnitude_half_life = None if half_life is None else half_life * 1000  # images

    def forward(self, source: Tensor, condition: Condition) -> GOut:
        """See the class."""
        w = self.to_w(source, condition)
        ws = self.for_layers(w, condition, self.truncation)
        magnitudes: list[Tensor] | None = [] if self.training and self.magnitude_half_life is not None else None
        images = self.synthesis(ws, magnitudes)
        keep = self.kept_of_w(w, condition)
        if magnitudes is not None:
            keep["magnitudes"] = torch.stack(magnitudes, dim=1)
        return GOut(images, latents=ws, keep=keep)

    def from_ws(self, ws: Tensor, noise: Tensor | None) -> Tensor:
        """[N, L, w_dim] -> images [N, C, H, H]. It has no noise."""
        images: Tensor = self.synthesis(ws)
        return images

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method: so do the mean squares of what layers are given, by the discriminator's main steps."""
        super().stepped(phase, kept)
        if phase == "d_main" and "magnitudes" in kept and self.magnitude_half_life is not None:
            moved = 1 - 0.5 ** (len(kept["magnitudes"]) / self.magnitude_half_life)
            pairs = zip(self._magnitudes(), kept["magnitudes"].mean(0), strict=True)
            for magnitude, now in islice(pairs, self.frozen_layers, None):
                magnitude.lerp_(now.to(magnitude.dtype), moved)

    def touched(self) -> Sequence[Tensor]:
        """See Method."""
        return [*super().touched(), *self._magnitudes()]

    def _magnitudes(self) -> list[Tensor]:
        return [layer.magnitude for layer in self.synthesis.all_layers()]

    def _freeze_stem(self, *, with_input: bool) -> None:
        """All that was there before the last head never trains. The mean of w still moves, to where it is."""
        synthesis = self.synthesis
        stem = [self.frontend, self.mapping, synthesis.layers, *synthesis.heads[:-1]]
        for part in [*stem, synthesis.input] if with_input else stem:
            part.requires_grad_(False)
        head = f"synthesis.heads.{len(synthesis.heads) - 1}."
        self.must_be_given = [name for name in self.state_dict() if not name.startswith(head)]
        self.frozen_layers = self.layers - 1 - len(cast(nn.ModuleList, synthesis.heads[-1]))


class Synthesis(nn.Module):
    """ws [N, L, w_dim] -> images [N, C, H, H]. `layers` are those of the stem, `heads` those of each further stage."""

    def __init__(self, config: Stylegan3GeneratorConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        stem, *heads = stages(config, image_shape)
        self.input = Waves(stem[0], config.w_dim)
        self.layers = _layers(config, [stem[0], *stem])
        self.heads = nn.ModuleList(_layers(config, [before[-1], *head]) for before, head in pairwise([stem, *heads]))

    def all_layers(self) -> Iterator[_Layer]:
        """From the input to the image."""
        return cast(Iterator[_Layer], chain(self.layers, *cast(Iterator[nn.ModuleList], self.heads)))

    def forward(self, ws: Tensor, magnitudes: list[Tensor] | None = None) -> Tensor:
        """To `magnitudes` is added, for each layer, the mean square [N] of what it is given."""
        x = self.input(ws[:, 0])
        for layer, w in zip(self.all_layers(), ws[:, 1:].unbind(1), strict=True):
            if magnitudes is not None:
                magnitudes.append(at_least_float32(x.detach()).square().mean((1, 2, 3)))
            x = layer(x, w)
        images: Tensor = x.to(ws.dtype) * _OUTPUT_SCALE
        return images


def _layers(config: Stylegan3GeneratorConfig, bands: Sequence[Band]) -> nn.ModuleList:
    return nn.ModuleList(_Layer(config, before, after) for before, after in pairwise(bands))


class Waves(nn.Module):
    """The input, w [N, w_dim] -> [N, C, H, H]: plane waves, turned and shifted as a layer learns from w, and mixed.

    Attributes:
        transform: [3, 3], in homogeneous coordinates (x, y), of the side of the shown image and around its centre.
            Where the image shows what lies elsewhere: a shift by (x, y) moves what is drawn by (-x, -y). It is the
            identity, unless somebody sets it, and is not saved.
    """

    frequencies: Tensor
    phases: Tensor
    transform: Tensor
    places: Tensor

    def __init__(self, band: Band, w_dim: int) -> None:
        super().__init__()
        frequencies = torch.randn(band.channels, 2)
        radius = frequencies.square().sum(1, keepdim=True).sqrt()
        frequencies = frequencies * (band.cutoff / (radius * (radius.square() / 4).exp()))  # about even in a disc
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", torch.rand(band.channels) - 0.5)
        self.register_buffer("transform", torch.eye(3), persistent=False)
        places = (torch.arange(band.size) + 0.5 - band.size / 2) / band.rate
        self.register_buffer("places", places, persistent=False)
        self.affine = EqualLinear(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        self.affine.bias.data[0] = 1  # (cosine, sine, x, y), turned by no angle
        self.weight = nn.Parameter(torch.randn(band.channels, band.channels))
        self.cutoff = band.cutoff
        self.fade = band.rate / 2 - band.cutoff

    def forward(self, w: Tensor) -> Tensor:
        """See the class."""
        with without_autocast(w):
            moved = self._moved(w.to(self.weight.dtype))  # [N, 3, 3]
            frequencies = self.frequencies @ moved[:, :2, :2]  # [N, C, 2]
            phases = self.phases + (self.frequencies @ moved[:, :2, 2:]).squeeze(2)  # [N, C]
            amplitudes = (1 - (frequencies.norm(dim=2) - self.cutoff) / self.fade).clamp(0, 1)
            along_x, along_y = (frequencies[:, :, None] * self.places[:, None]).unbind(3)  # [N, C, H]
            turns = along_y[:, :, :, None] + (along_x + phases[:, :, None])[:, :, None]
            waves = (turns * (2 * math.pi)).sin() * amplitudes[:, :, None, None]
            return conv2d(waves, (self.weight / math.sqrt(len(self.weight)))[:, :, None, None])

    def _moved(self, w: Tensor) -> Tensor:
        """Where a place of the image lies among the waves."""
        learnt = self.affine(w)
        cos, sin, x, y = (learnt / learnt[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1)
        return turn.view(-1, 3, 3) @ shift.view(-1, 3, 3) @ self.transform


class _Layer(nn.Module):
    """[N, c, h, h], w [N, w_dim] -> [N, C, H, H]. That which makes the image has no nonlinearity."""

    magnitude: Tensor

    def __init__(self, config: Stylegan3GeneratorConfig, before: Band, after: Band) -> None:
        super().__init__()
        last = after.shown
        kernel = 1 if last or after.rotation else 3
        self.conv = ModulatedConv(
            before.channels, after.channels, kernel, config.w_dim, demodulate=not last, padding=kernel - 1
        )
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude", torch.ones(()))
        self.filtered: FilteredLeakyReLU | None = None
        self.clamp = config.conv_clamp
        self.bf16 = after.bf16
        if not last:
            fine = 2 * max(before.rate, after.rate)
            up, down = fine // before.rate, fine // after.rate
            radial = after.rotation and not after.critical
            self.filtered = FilteredLeakyReLU(
                lowpass(TAPS * up, before.cutoff, before.half_width, fine),
                lowpass(TAPS * down, after.cutoff, after.half_width, fine, radial=radial),
                up,
                down,
                after.size,
                config.conv_clamp,
            )

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        x = x.to(half_dtype(w) if self.bf16 else w.dtype)
        gain = 1.0 if self.filtered is None else GAIN
        x = self.conv(x, w, self.bias, gain, self.magnitude.rsqrt())
        if self.filtered is not None:
            return cast(Tensor, self.filtered(x))
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
