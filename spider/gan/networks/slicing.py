"""The last layer of a discriminator, and the two readings of it that SAN trains by.

    f(x) = <w, h(x)> + beta = s <omega, h(x)> + beta,    s = |w|,  omega = w / s

    fun = s <sg(omega), h> + beta            moves h, s and beta, and not the direction
    dir = sg(s) <omega, sg(h)> + sg(beta)    moves the direction alone; sg holds gradients back

All three are equal as numbers, so that a loss weighs images by what f says of them. See "SAN: Inducing Metrizability of
GAN with Discriminative Normalized Linear Layer" (Takida et al. 2024), and sony/san, simple-san/models/discriminator.py.

The direction stays on the sphere because it is computed from w in every pass. w is the weight that the layer has
anyway: dir gives it a gradient that is tangential to the sphere, and fun one that is radial. So a step of the optimizer
turns the direction as fast as it turns the plain layer's, a step that was not taken leaves nothing to take back, any
engine may split w, and a sliced network is saved and exported as a plain one, and begins with its weights. StyleSAN-XL
stores omega and s apart and projects omega after each step.

A plain layer that is divided by its spectral norm (projected heads, FastGAN, BigGAN, SN-GAN) loses that when it is
sliced, which leaves what is said. A sliced network that begins with the weights of a plain one has them as they are
saved: what it says is times that norm. A plain network that begins with a sliced one finds the norm anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from spider.gan.outputs import DIRECTION, FACING, DOut


@dataclass(frozen=True)
class Judged:
    """What a last layer says of images.

    Attributes:
        logits: [N, ...]: f, or of a sliced layer fun.
        direction: dir, of a sliced layer.
        facing: sg(s h) [N, F], of a sliced dense layer whose direction all images share.
    """

    logits: Tensor
    direction: Tensor | None = None
    facing: Tensor | None = None


def read(product: Callable[[Tensor, Tensor], Tensor], h: Tensor, weight: Tensor, *, sliced: bool) -> Judged:
    """What a layer says, before beta is added.

    Args:
        product: of h and the weight, linear in both.
        weight: [1, ...], or [N, ...] of each image.
        sliced: whether SAN's two readings are wanted, or the plain one.
    """
    if not sliced:
        return Judged(product(h, weight))
    scale = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True).clamp_min(1e-12)
    direction = weight / scale
    return Judged(product(h, direction.detach() * scale), product(h.detach(), direction * scale.detach()))


def read_dense(h: Tensor, weight: Tensor, beta: Tensor | None = None, *, sliced: bool, of_each: bool = False) -> Judged:
    """h [N, F] -> logits [N, 1]. `weight`: [1, F], or [N, F] of each image. `beta`: [1].

    `of_each`: it is of each image; a rank that has one image, N = 1, cannot tell by the shape.
    """
    shared = len(weight) == 1
    judged = read(linear if shared else _each, h, weight, sliced=sliced)
    logits, direction = judged.logits, judged.direction
    if beta is not None:
        logits = logits + beta
        direction = None if direction is None else direction + beta.detach()
    facing = (h * torch.linalg.vector_norm(weight)).detach() if sliced and shared and not of_each else None
    return Judged(logits, direction, facing)


def read_conv(h: Tensor, layer: nn.Conv2d, *, sliced: bool) -> Judged:
    """h [N, C, H, W] -> logits [N, 1, H', W'] of places. If it is sliced, the layer is a plain one without a bias."""
    return read(conv2d, h, layer.weight, sliced=True) if sliced else Judged(layer(h))


def said(judged: list[Judged], features: Mapping[str, Tensor]) -> DOut:
    """All that the last layers of a discriminator say: logits [N, P]. `features`: what it tells besides."""
    told = dict(features)
    directions = [each.direction.flatten(1) for each in judged if each.direction is not None]
    if directions:
        told[DIRECTION] = torch.cat(directions, dim=1)
    if len(judged) == 1 and judged[0].facing is not None:
        told[FACING] = judged[0].facing
    return DOut(torch.cat([each.logits.flatten(1) for each in judged], dim=1), told)


def side_by_side(outs: Sequence[DOut]) -> DOut:
    """What several networks say of the same images as one: all logits and all features, one network after the other.

    Networks weigh alike: the weighted mean over all logits is the mean of each network's own mean.
    """
    if len(outs) == 1:
        return outs[0]
    logits, counts = torch.cat([out.logits for out in outs], dim=1), [out.logits.shape[1] for out in outs]
    weights = None
    if len({*counts}) > 1:
        weights = torch.cat([logits.new_full((count,), sum(counts) / len(counts) / count) for count in counts])
    features = {name: torch.cat([out.features[name] for out in outs], dim=1) for name in outs[0].features}
    return DOut(logits, features, weights=weights)


class Sliceable(nn.Module):
    """A discriminator whose last layers can be sliced. One of your own asks `sliced`, and hands it to `read`."""

    sliced = False

    def slice(self) -> None:
        """From now on it tells SAN's two readings. What it says stays the same."""
        self.sliced = True


def _each(h: Tensor, weight: Tensor) -> Tensor:
    return (h * weight).sum(dim=1, keepdim=True)
