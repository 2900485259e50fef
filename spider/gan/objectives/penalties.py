"""Gradient penalties, per image and in full precision.

Each returns values [N] before any weight. They need double backward, so the discriminator that they are given runs
eagerly and outside autocast. Which are on, and what they weigh, is the settings' (`spider.gan.objectives.build`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spider.draws import Address


@dataclass(frozen=True)
class Judged:
    """Images of a micro-batch, and the discriminator's judgement of such images.

    Attributes:
        images: [n, C, H, W].
        logits: [n, C, H, W] -> [n, P], of images like these; differentiable twice, augmented.
    """

    images: Tensor
    logits: Callable[[Tensor], Tensor]


class Penalty(Protocol):
    """A penalty on the discriminator."""

    def __call__(self, real: Judged, fake: Judged | None, draws: Address) -> Tensor:
        """Values [n] before any weight; `fake` is None where the settings say that it is not needed."""


def r1(real: Judged, fake: Judged | None, draws: Address) -> Tensor:
    """See Penalty: `squared_gradient` at real images."""
    return squared_gradient(real.logits, real.images)


def r2(real: Judged, fake: Judged | None, draws: Address) -> Tensor:
    """See Penalty: `squared_gradient` at generated images."""
    assert fake is not None
    return squared_gradient(fake.logits, fake.images)


def gp(real: Judged, fake: Judged | None, draws: Address) -> Tensor:
    """See Penalty: `slope_excess`. What lies between two images is judged as being of the real one's class."""
    assert fake is not None
    return slope_excess(real.logits, real.images, fake.images, draws.uniform("gp.mix", ()).to(real.images.dtype))


def squared_gradient(logits_of: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """|grad_x D(x)|^2, summed over pixels: R1 at real images, R2 at generated ones (Mescheder et al. 2018).

    Args:
        logits_of: the discriminator, [N, C, H, W] -> [N, P].
        images: [N, C, H, W].

    Returns:
        [N], differentiable with respect to the discriminator.
    """
    return _gradient(logits_of, images).square().sum(dim=(1, 2, 3))


def slope_excess(logits_of: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """(|grad_x D(x)| - 1)^2 at x = fake + mix (real - fake): the gradient penalty of WGAN-GP (Gulrajani et al. 2017).

    Args:
        logits_of: as above.
        real, fake: [N, C, H, W].
        mix: uniform in [0, 1), [N].

    Returns:
        [N], as above.
    """
    between = torch.lerp(fake, real, mix.view(-1, 1, 1, 1))
    squared = _gradient(logits_of, between).square().sum(dim=(1, 2, 3))
    return (squared + 1e-12).sqrt().sub(1).square()  # a root has no derivative at 0


def _gradient(logits_of: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(logits_of(images).sum(), images, create_graph=True)
    if not gradient.requires_grad:
        raise RuntimeError("the penalty's gradient has no history: double backward was dropped somewhere in D")
    return gradient
