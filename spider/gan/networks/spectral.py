"""Layers whose weight is divided by its largest singular value (spectral normalisation, Miyato et al. 2018).

    sigma = u W v,   W [out, rest],   and a round of the power iteration is v = W^T u / |W^T u|, u = W v / |W v|

With equal u, v and W, outputs and gradients are those of `torch.nn.utils.spectral_norm`. What differs: that makes a
round within each forward pass in training, three of them in an iteration of a GAN. Here a network makes a round after
each step that its weights took (`SpectralNetwork`), so that a pass may run twice, and a skipped step leaves no trace.
At first u and v are those after 15 rounds from random ones. BigGAN's code stores u alone, divides by the norm or 1e-6,
and makes a round in evaluation as well, which it forgets: with equal vectors its numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, linear, normalize

from spider.gan.method import Kept, Method
from spider.gan.networks.classes import ClassEmbedding, vectors_of_classes
from spider.gan.outputs import Condition
from spider.precision import without_autocast

# What torch.nn.utils.spectral_norm calls the tensors of a layer, and what they are called here
TORCH_NAMES = {"weight_orig": "weight", "weight_u": "u", "weight_v": "v"}
_FIRST_ROUNDS = 15

Plain = TypeVar("Plain", bound=nn.Module)


class Spectral(nn.Module):
    """A layer with a `weight`, of which `divided` is what it multiplies by."""

    derived = ("u", "v")  # see `spider.gan.init.derived`
    u: Tensor
    v: Tensor
    weight: Tensor

    def begin(self) -> None:
        """Find u and v of the first weights."""
        rows = self.rows().detach()
        self.register_buffer("u", normalize(torch.randn_like(rows[:, 0]), dim=0))
        self.register_buffer("v", normalize(torch.randn_like(rows[0]), dim=0))
        self.derive()

    def derive(self) -> None:
        """Find u and v of the weights that there are, from those that there were."""
        for _ in range(_FIRST_ROUNDS):
            self.round()

    def rows(self) -> Tensor:
        """The weight, [out, rest]."""
        return self.weight.flatten(1)

    def divided(self) -> Tensor:
        """The weight by sigma, of which gradients know that it depends on the weight."""
        with without_autocast(self.weight):
            # Times the inverse, whose gradient takes fewer passes over the weight than that of a division
            return self.weight * torch.dot(self.u, torch.mv(self.rows(), self.v)).reciprocal()

    @torch.no_grad()
    def round(self) -> None:
        """One round of the power iteration."""
        rows = self.rows()
        self.v.copy_(normalize(torch.mv(rows.T, self.u), dim=0, eps=1e-12))
        self.u.copy_(normalize(torch.mv(rows, self.v), dim=0, eps=1e-12))


class SpectralConv(Spectral, nn.Conv2d):
    """A convolution, as nn.Conv2d."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)
        self.begin()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        return conv2d(x, self.divided(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class SpectralConvTranspose(Spectral, nn.ConvTranspose2d):
    """A transposed convolution without a bias, as nn.ConvTranspose2d."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, bias=False)
        self.begin()

    def rows(self) -> Tensor:
        """See the base class."""
        return self.weight.transpose(0, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """[N, inputs, H, W] -> [N, outputs, H + kernel - 1, W + kernel - 1]."""
        return conv_transpose2d(x, self.divided())


class SpectralLinear(Spectral, nn.Linear):
    """A dense layer, as nn.Linear."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.begin()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        return linear(x, self.divided(), self.bias)


class SpectralEmbedding(Spectral, ClassEmbedding):
    """A vector for each class, as ClassEmbedding: the whole table is one weight, a row for each class."""

    weight: nn.Parameter

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes, dim)
        self.begin()

    def forward(self, condition: Condition) -> Tensor:
        """Condition -> [N, dim]."""
        return vectors_of_classes(condition, self.divided())


def without_spectral_norm(layer: Plain) -> Plain:
    """A plain layer that does what one with spectral norm does now: a convolution, a dense layer or an embedding."""
    plain: nn.Module
    if not isinstance(layer, Spectral):
        return layer
    state = {**layer.state_dict(), "weight": layer.divided().detach()}
    if isinstance(layer, SpectralConv):
        bias, (width, _) = layer.bias is not None, layer.kernel_size
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, width, layer.stride, layer.padding, bias=bias)  # type: ignore[arg-type]
    elif isinstance(layer, SpectralLinear):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    elif isinstance(layer, SpectralEmbedding):
        plain = ClassEmbedding(*layer.weight.shape)
    else:
        raise NotImplementedError(f"no plain layer of {type(layer).__name__}")
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return cast(Plain, plain)


class SpectralNetwork(nn.Module, Method):
    """A network that makes a round of the power iteration in each of its layers after a step that its weights took.

    A layer in evaluation mode is frozen (`spider.train.compute`), and makes none.

    Args:
        player: whose steps these are.
    """

    def __init__(self, player: Literal["generator", "discriminator"] = "discriminator") -> None:
        super().__init__()
        self._steps = f"{player[0]}_"  # of the names of phases

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method."""
        if phase.startswith(self._steps):
            for layer in self._layers():
                layer.round()

    def touched(self) -> Sequence[Tensor]:
        """See Method."""
        return [vector for layer in self._layers() for vector in (layer.u, layer.v)]

    def _layers(self) -> list[Spectral]:
        return [module for module in self.modules() if isinstance(module, Spectral) and module.training]
