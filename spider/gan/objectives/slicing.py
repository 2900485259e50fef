"""SAN: a loss for the direction of D's last layer, beside any objective (Takida et al. 2024).

    L_D = V(fun) + L_dir        the generator's loss is that of the objective

The objective V gets `fun`, which moves all but the direction. L_dir moves the direction omega alone, so that it tells
real and generated images apart as far as any direction could:

    autograd:    L_dir = E_real R(dir) - E_fake R(dir)
    normalised:  L_dir = -(sum of r dir / sum of r over the real images) + (the same over the generated ones)

R is the generator's loss of a logit, r = -R'(fun) its slope without a gradient. For hinge and Wasserstein r = 1, and
both are -E_real dir + E_fake dir (sony/san, simple-san/train.py). The first is that of BigVSAN for least squares
(sony/bigvsan, models.py, discriminator_loss), the second that of the paper. Of pairs r is
sigmoid(fun(x) - fun(G(z))), which nobody has published.

The optimality of the direction, from -1 to 1, is logged where all images share one direction: the cosine between omega
and E_real r h - E_fake r h, where r has mean 1. At 1 no direction would tell more.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from spider.draws import Address
from spider.gan.loss import Loss, Weighed
from spider.gan.method import Kept, Method
from spider.gan.objectives.objective import Separable
from spider.gan.objectives.relativistic import Relativistic
from spider.gan.outputs import DIRECTION, FACING, DOut


class Slicing(Method):
    """See Objective.

    Args:
        objective: V, of which the generator's loss and all judgements are.
        weights: of the images in L_dir.
        device: of what is remembered.
    """

    phases = ("d_main",)

    def __init__(
        self, objective: Separable | Relativistic, weights: Literal["normalised", "autograd"], device: torch.device
    ) -> None:
        self.objective = objective
        self.paired = objective.paired
        self.weights = weights
        self.optimality = torch.zeros((), dtype=torch.float64, device=device)  # 0: not measured yet

    def discriminator(self, real: DOut, fake: DOut, draws: Address) -> Loss:
        """See Objective."""
        loss = self.objective.discriminator(real, fake, draws)
        slopes = self._slopes(real.logits.detach(), fake.logits.detach())
        keep = {**loss.keep, **_seen(real, fake, slopes)}
        return Loss({**loss.terms, **self._terms(real, fake, slopes)}, keep)

    def generator(self, fake: DOut, real: DOut | None, draws: Address) -> Loss:
        """See Objective."""
        return self.objective.generator(fake, real, draws)

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """See Objective."""
        return self.objective.realness(real, fake)

    def score(self, fake: DOut) -> Tensor:
        """See Objective."""
        return self.objective.score(fake)

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method."""
        if "real.slope" in kept:
            self.optimality.copy_(_optimality(kept))

    def optimality_of(self, real: DOut, fake: DOut) -> float | None:
        """The optimality, from -1 to 1, of the direction of a network that tells SAN's two readings, trained so or not.

        None: no direction is shared by all images.
        """
        seen = _seen(real, fake, self._slopes(real.logits.detach(), fake.logits.detach()))
        return float(_optimality(seen)) if seen else None

    def tensors(self) -> dict[str, Tensor]:
        """See Method."""
        return {"optimality": self.optimality}

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        found = float(self.optimality)
        return {"slicing/optimality": found} if found else {}

    def _terms(self, real: DOut, fake: DOut, slopes: tuple[Tensor, Tensor]) -> dict[str, Tensor | Weighed]:
        real_direction, fake_direction = real.features[DIRECTION], fake.features[DIRECTION]
        autograd = self.weights == "autograd"
        if isinstance(self.objective, Relativistic):
            apart = real_direction - fake_direction
            return {"d_direction": -softplus(apart) if autograd else Weighed(-apart, slopes[0])}
        if autograd or self.objective.even:
            g_fake = self.objective.g_fake
            return {"d_direction_real": g_fake(real_direction), "d_direction_fake": -g_fake(fake_direction)}
        return {
            "d_direction_real": Weighed(-real_direction, slopes[0]),
            "d_direction_fake": Weighed(fake_direction, slopes[1]),
        }

    @torch.enable_grad()
    def _slopes(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """r of the real and of the generated images, as their logits."""
        if isinstance(self.objective, Relativistic):
            slope = (real - fake).sigmoid()
            return slope, slope
        logits = torch.stack([real, fake]).requires_grad_()
        (slopes,) = torch.autograd.grad(-self.objective.g_fake(logits).sum(), logits)
        return slopes[0], slopes[1]


def _seen(real: DOut, fake: DOut, slopes: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """What the optimality follows from, of each image; empty if the images share no direction."""
    if FACING not in real.features:
        return {}
    seen = {}
    for use, out, slope in zip(("real", "fake"), (real, fake), slopes, strict=True):
        seen[f"{use}.direction"] = out.features[DIRECTION].detach() * slope
        seen[f"{use}.facing"] = out.features[FACING] * slope
        seen[f"{use}.slope"] = slope
    return seen


def _optimality(seen: Kept) -> Tensor:
    """The cosine between the direction and the weighted difference of the features' means, float64 []."""
    apart = {
        name: seen[f"real.{name}"].sum(0, dtype=torch.float64) / seen["real.slope"].sum(dtype=torch.float64)
        - seen[f"fake.{name}"].sum(0, dtype=torch.float64) / seen["fake.slope"].sum(dtype=torch.float64)
        for name in ("direction", "facing")
    }
    cosine: Tensor = apart["direction"].squeeze() / apart["facing"].norm()
    return cosine
