"""What the generators of StyleGAN2 and StyleGAN3 begin with: a mapping network, the mean of its w, and truncation.

Outputs and initial laws are those of the public implementations (NVlabs/stylegan2-ada-pytorch and NVlabs/stylegan3).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from spider.gan.method import Kept, Method
from spider.gan.networks.classes import ClassEmbedding, class_shares, vectors_of_classes
from spider.gan.networks.equalized import EqualLinear
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.gan.networks.told import instance_features
from spider.gan.outputs import Condition, ConditionShape
from spider.precision import without_autocast

_LR = 0.01  # by which the mapping network's learning rate is multiplied


class Mapping(nn.Module):
    """z [N, z_dim], or None, and what it is told: class, time and instance, as far as it is -> w [N, w_dim].

    The features of an instance have a layer of their own beside that of the class, and both answers are normalised as
    one vector, as facebookresearch/ic_gan has it (stylegan2_ada_pytorch/training/networks.py).

    Args:
        timed: whether it is told `Condition.time` [N], by a number of its own after those of the class.
        class_dim: of the vector that each class has, where it has one (StyleGAN-XL): a layer makes z_dim numbers of
            it, as of an instance. None: w_dim numbers of each are learnt.
    """

    def __init__(
        self,
        z_dim: int,
        told: ConditionShape,
        w_dim: int,
        layers: int,
        *,
        timed: bool = False,
        class_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.timed = told.classes, timed
        labels = told.classes + timed
        dim = w_dim if class_dim is None else z_dim
        self.class_vectors = None if class_dim is None or not labels else ClassEmbedding(labels, class_dim)
        inputs = labels if class_dim is None else class_dim
        self.embedding = EqualLinear(inputs, dim, activate=class_dim is not None) if labels else None
        self.instance = EqualLinear(told.features, dim) if told.features else None
        dims = [z_dim + dim * (bool(labels) + bool(told.features)), *[w_dim] * layers]
        self.layers = nn.Sequential(
            *(EqualLinear(inputs, outputs, activate=True, lr_multiplier=_LR) for inputs, outputs in pairwise(dims))
        )

    def forward(self, z: Tensor | None, condition: Condition) -> Tensor:
        """See the class. Autocast rounds none of it."""
        weight = cast(EqualLinear, self.layers[0]).weight
        with without_autocast(weight):
            return self._w(None if z is None else z.to(weight.dtype), condition)

    def _w(self, z: Tensor | None, condition: Condition) -> Tensor:
        parts = [] if z is None else [_normalised(z)]
        told = []
        if self.embedding is not None:
            told.append(self.embedding(self._told(condition, self.embedding.weight.dtype)))
        if self.instance is not None:
            told.append(self.instance(instance_features(condition).to(self.instance.weight.dtype)))
        if told:
            parts.append(_normalised(torch.cat(told, dim=1)))
        w: Tensor = self.layers(torch.cat(parts, dim=1))
        return w

    def _told(self, condition: Condition, dtype: torch.dtype) -> Tensor:
        """[N, classes], and where it is timed one more; or the vector of each class."""
        if self.class_vectors is not None:
            vectors: Tensor = self.class_vectors(condition)
            return vectors.to(dtype)
        told = [class_shares(condition, self.classes).to(dtype)] if self.classes else []
        if self.timed:
            if condition.time is None:
                raise ValueError("a network that is told the time was not given it")
            told.append(condition.time[:, None].to(dtype))
        return torch.cat(told, dim=1)


class StyledGenerator(nn.Module, Method):
    """A generator whose layers are given copies of w [N, w_dim], which a mapping network makes of its input.

    Attributes:
        layers: L, how many w an image has.
        w_avg: the mean of w, [w_dim], or of each class, [classes, w_dim].
        truncation: psi, see `for_layers`; 1 in training.
        layer_sides: the greater side of what each layer makes, in px, of all L, in their order.
        noise_sizes: heights and widths of the maps of noise that its layers add, in px, in their order; empty: none.
    """

    w_avg: Tensor
    layers: int
    layer_sides: Sequence[int] = ()
    noise_sizes: Sequence[tuple[int, int]] = ()

    def __init__(
        self,
        config: Stylegan2GeneratorConfig | Stylegan3GeneratorConfig,
        input_shape: tuple[int, ...],
        told: ConditionShape,
        frontend: nn.Module | None,
        *,
        class_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.frontend = frontend if frontend is not None else nn.Identity()
        self.mapping = Mapping(input_shape[0], told, config.w_dim, config.mapping_layers, class_dim=class_dim)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))
        self.w_avg_beta = config.w_avg_beta
        self.w_avg_steps = config.w_avg_steps
        self.truncation = 1.0

    def to_w(self, inputs: Tensor, condition: Condition) -> Tensor:
        """What it is fed -> w [N, w_dim]."""
        w: Tensor = self.mapping(self.frontend(inputs), condition)
        return w

    def noise(self, condition: Condition) -> Tensor | None:
        """What its layers add to images of a condition, their maps one after the other: [N or 1, numbers]."""
        return None

    def for_layers(self, w: Tensor, condition: Condition, psi: float = 1.0, layers: int | None = None) -> Tensor:
        """[N, w_dim] -> [N, L, w_dim], truncated: in the first `layers` (all) pulled to the mean of w.

        Args:
            condition: says whose mean, where each class has one.
            psi: 1 leaves w as it is, 0 is the mean.
        """
        ws = w[:, None].expand(-1, self.layers, -1)
        if psi == 1:
            return ws
        mean = self.w_avg if self.w_avg.dim() == 1 else vectors_of_classes(condition, self.w_avg)[:, None]
        pulled = mean.lerp(ws[:, :layers], psi)
        return torch.cat([pulled, ws[:, pulled.shape[1] :]], dim=1)

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method: w's mean moves by each step on images that the generator made, or by the discriminator's."""
        if kept and (self.w_avg_steps == "all" or phase == "d_main"):
            w = kept["w"].to(self.w_avg.dtype)
            if self.w_avg.dim() == 1:
                self.w_avg.lerp_(w.mean(0), 1 - self.w_avg_beta)
            else:
                _move_means(self.w_avg, w, kept["labels"], self.w_avg_beta)

    def kept_of_w(self, w: Tensor, condition: Condition) -> dict[str, Tensor]:
        """What `stepped` needs of w [N, w_dim], as GOut.keep."""
        return {"w": w} if self.w_avg.dim() == 1 else {"w": w, "labels": class_shares(condition, len(self.w_avg))}

    def touched(self) -> Sequence[Tensor]:
        """See Method."""
        return [self.w_avg]


def _move_means(means: Tensor, w: Tensor, shares: Tensor, beta: float) -> None:
    """The mean of each class [classes, w_dim] moves by one w of it after the other, in the order of the batch.

    Args:
        shares: [N, classes], 1 for an image's class.
    """
    shares = shares.to(means.dtype)
    later = shares.flip(0).cumsum(0).flip(0) - shares  # of the same class, that come after it
    means.mul_(beta ** shares.sum(0)[:, None]).add_(((1 - beta) * shares * beta**later).T @ w)


def _normalised(x: Tensor) -> Tensor:
    """Each row divided by the root of its mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
