"""What each player's step minimises.

A phase makes passes over its batch: functions that run the networks forward and return terms. Each pass is one forward
and one backward, so that the graph of the adversarial loss is gone before a penalty builds its own, which is twice as
deep; gradients add up to those of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from spider.networks.outputs import Condition, DOut, GOut
from spider.objectives.config import PenaltiesConfig
from spider.objectives.objective import Objective
from spider.objectives.penalties import slope_excess, squared_gradient
from spider.sources.source import Frontend
from spider.train.player import Player
from spider.train.stats import Stats
from spider.train.terms import Term


@dataclass(frozen=True)
class PhaseBatch:
    """What a phase drew, once, for one micro-batch of this rank's slots."""

    source: Tensor  # [n, *source.shape]
    condition: Condition
    real: Tensor | None = None  # [n, C, H, W], -1 to 1
    fake: Tensor | None = None  # the generator's answer to `source`, where the discriminator needs it
    mix: Tensor | None = None  # [n], uniform, for the gradient penalty

    def split(self, parts: int) -> list[PhaseBatch]:
        """Micro-batches: slot s of the rank goes to micro-batch s mod `parts`."""
        if parts == 1:
            return [self]
        return [
            PhaseBatch(
                source=self.source[m::parts],
                condition=Condition(None if self.condition.labels is None else self.condition.labels[m::parts]),
                real=None if self.real is None else self.real[m::parts],
                mix=None if self.mix is None else self.mix[m::parts],
            )
            for m in range(parts)
        ]


Pass = Callable[[PhaseBatch], Sequence[Term]]


@dataclass(frozen=True)
class Phase:
    """Whose step it is, and the passes that make up its loss."""

    name: str
    player: Player
    passes: tuple[Pass, ...]
    selects: bool = False  # the first pass scores its images for the selection


class Losses:
    """The passes of a GAN with one adversarial objective."""

    def __init__(
        self,
        generator: Player,
        discriminator: Player,
        objective: Objective,
        penalties: PenaltiesConfig,
        penalty_gain: float,
        autocast: Callable[[], AbstractContextManager[None]],
        stats: Stats,
    ) -> None:
        self.generator = generator
        self.discriminator = discriminator
        self.objective = objective
        self.penalties = penalties
        self.penalty_gain = penalty_gain  # discriminator steps per penalty
        self.autocast = autocast
        self.stats = stats

    def with_fakes(self, batch: PhaseBatch) -> PhaseBatch:
        """The batch with the generator's images, which the discriminator's phase takes as given."""
        with torch.no_grad(), self.autocast():
            fake = cast(GOut, self.generator.first_order(batch.source, batch.condition)).images
        return replace(batch, fake=fake.to(batch.source.dtype))

    def d_adversarial(self, batch: PhaseBatch) -> list[Term]:
        """Tell real images from generated ones."""
        real = self._logits(_given(batch.real), batch.condition)
        fake = self._logits(_given(batch.fake), batch.condition)
        for name, logits in (("real", real), ("fake", fake)):
            self.stats.add(f"logits/{name}", logits)
            self.stats.add(f"signs/{name}", logits.sign())
        return [
            Term("loss/d_real", self.objective.d_real(real)),
            Term("loss/d_fake", self.objective.d_fake(fake)),
        ]

    def d_penalty(self, batch: PhaseBatch) -> list[Term]:
        """The gradient penalties that are on, scaled up by how many steps each stands for."""
        settings, gain = self.penalties, self.penalty_gain

        def logits_of(images: Tensor) -> Tensor:
            return cast(DOut, self.discriminator.module(images, batch.condition)).logits

        terms = []
        if settings.r1_gamma:
            r1 = squared_gradient(logits_of, _given(batch.real))
            terms.append(Term("penalty/r1", r1, coefficient=gain * settings.r1_gamma / 2))
        if settings.r2_gamma:
            r2 = squared_gradient(logits_of, _given(batch.fake))
            terms.append(Term("penalty/r2", r2, coefficient=gain * settings.r2_gamma / 2))
        if settings.gp_weight:
            gp = slope_excess(logits_of, _given(batch.real), _given(batch.fake), _given(batch.mix))
            terms.append(Term("penalty/gp", gp, coefficient=gain * settings.gp_weight))
        return terms

    def g_adversarial(self, batch: PhaseBatch) -> list[Term]:
        """Make the discriminator take generated images for real."""
        with self.autocast():
            images = cast(GOut, self.generator.first_order(batch.source, batch.condition)).images
        logits = self._logits(images, batch.condition)
        terms = [Term("loss/g", self.objective.g_fake(logits), scores=logits.detach().flatten(1).mean(1))]
        frontend = self.generator.module.frontend
        if isinstance(frontend, Frontend):
            terms.append(Term("penalty/frontend", frontend.penalty().expand(len(logits))))
        return terms

    def _logits(self, images: Tensor, condition: Condition) -> Tensor:
        with self.autocast():
            logits = cast(DOut, self.discriminator.first_order(images, condition)).logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("the phase's batch lacks a tensor that its pass needs")
    return tensor
