"""The passes of a GAN with one adversarial objective, and the two ways to its networks.

Every way to the generator is a `Maker`'s, and every way to the discriminator a `Critic`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.shown import shown
from spider.gan.auxiliary.auxiliary import Seen
from spider.gan.auxiliary.build import Joined
from spider.gan.loss import Loss, by_judgement
from spider.gan.method import Kept
from spider.gan.objectives.build import GeneratorPenaltyTerm, PenaltyTerm
from spider.gan.objectives.generator_penalties import Made
from spider.gan.objectives.objective import Objective
from spider.gan.objectives.penalties import Judged
from spider.gan.outputs import Condition, DOut, GOut, as_judgement, as_made, changed, exact, with_draws
from spider.gan.sources.source import Frontend
from spider.train.batch import PhaseBatch, given
from spider.train.phases import Outcome, detached
from spider.train.player import Player

Autocast = Callable[[], AbstractContextManager[None]]


@dataclass
class Maker:
    """From a batch's source to images."""

    generator: Player
    autocast: Autocast

    def __call__(self, batch: PhaseBatch) -> GOut:
        """The generator's output for `batch.source`, through which gradients flow, in float32 at least."""
        with self.autocast():
            out = as_made(self.generator.first_order(batch.source, self._told(batch)))
        return changed(out, exact)

    @torch.enable_grad()  # a pass may run once more without gradients
    def twice(self, batch: PhaseBatch) -> Made:
        """What it makes, differentiable twice and down to the source: eager, and in full precision."""
        batch = replace(batch, source=batch.source.detach().requires_grad_(True))
        return Made(batch.source, as_made(self.generator.module(batch.source, self._told(batch))))

    @torch.no_grad()
    def given(self, batch: PhaseBatch) -> PhaseBatch:
        """The batch with its images, without gradients: what the discriminator's phases take as given."""
        out, dtype = self(batch), batch.source.dtype
        condition = replace(batch.fake_condition, sizes={name: each.to(dtype) for name, each in out.sizes.items()})
        return replace(batch, fake=out.images.to(dtype), fake_condition=condition, keep=self.kept(out))

    def remade(self, batch: PhaseBatch) -> Callable[[Callable[[Tensor], Tensor]], Tensor]:
        """The way to images of a changed source, see Seen."""
        return lambda change: self(replace(batch, source=change(batch.source))).images

    def kept(self, out: GOut) -> dict[str, Kept]:
        """What the generator's output gives to keep, by method: for the generator, if it is one."""
        return {self.generator.method: detached(out.keep)}

    def _told(self, batch: PhaseBatch) -> Condition:
        at, network = batch.at, self.generator.module
        return with_draws(batch.fake_condition, network, at.seed, at.stream("generator"), at.positions, batch.source)

    def penalty(self) -> Tensor | None:
        """What the generator's frontend adds to its loss; None if it has none. Scalar."""
        frontend = getattr(self.generator.module, "frontend", None)
        return frontend.penalty() if isinstance(frontend, Frontend) else None


@dataclass
class Critic:
    """From images to the discriminator's judgement: they are augmented first, whoever asks."""

    discriminator: Player
    augmentations: Sequence[Augmentation]
    autocast: Autocast

    def taking(self, batch: PhaseBatch) -> PhaseBatch:
        """The batch with the images that the discriminator takes for real. Its fakes are there."""
        real, fake = given(batch.real), given(batch.fake)
        for augmentation in self.augmentations:
            real = augmentation.reals(real, fake, batch.at)
        return replace(batch, real=real)

    def __call__(
        self, batch: PhaseBatch, use: str, images: Tensor, condition: Condition, network: nn.Module | None = None
    ) -> Seen:
        """The judgement of images, differentiable once, with a way to judge them again. Logits are float32 at least.

        Args:
            batch: the micro-batch that they belong to.
            use: what for, within the phase: two uses are augmented by different draws.
            images: [n, C, H, W].
            condition: theirs.
            network: in the place of the discriminator.
        """
        augmented, told = self._shown(batch, use, images, condition, network or self.discriminator.module)
        with self.autocast():
            out = as_judgement((network or self.discriminator.first_order)(augmented, told), len(images)).each(exact)
        return Seen(use, images, augmented, condition, out, partial(self, batch))

    def twice(self, batch: PhaseBatch, use: str, images: Tensor, condition: Condition) -> DOut:
        """The judgement of images, differentiable twice: eager, and in full precision."""
        network, condition = self.discriminator.module, replace(condition, sizes={})  # resized: gradients reach images
        return as_judgement(network(*self._shown(batch, use, images, condition, network)), len(images))

    def kept(self, **judged: DOut) -> dict[str, Kept]:
        """What the discriminator's outputs give to keep, by method: for the discriminator, if it is one."""
        keep = {f"{use}.{name}": values for use, out in judged.items() for name, values in out.keep.items()}
        return {self.discriminator.method: detached(keep)}

    def _shown(
        self, batch: PhaseBatch, use: str, images: Tensor, condition: Condition, network: nn.Module
    ) -> tuple[Tensor, Condition]:
        """What a network is given that judges: augmented images, and what it is told of them."""
        at, stream = batch.at, batch.at.stream(f"discriminator.{use}")
        images, condition = shown(images, condition, network, self.augmentations, at, use)
        return images, with_draws(condition, network, at.seed, stream, at.positions, images)


@dataclass
class DiscriminatorLoss:
    """Tell real images from generated ones, and what auxiliaries add to that."""

    maker: Maker
    critic: Critic
    objective: Objective
    joined: Sequence[Joined]

    def __call__(self, batch: PhaseBatch) -> Outcome:
        """See Pass."""
        real_seen = self.critic(batch, "real", given(batch.real), batch.real_condition)
        fake_seen = self.critic(batch, "fake", given(batch.fake), batch.fake_condition)
        fake_seen = replace(fake_seen, remade=self.maker.remade(batch))
        real, fake = real_seen.out, fake_seen.out
        real_realness, fake_realness = self.objective.realness(real, fake)
        outcome = Outcome(
            reports={
                "logits/real": by_judgement(real.logits, real.weights),
                "signs/real": by_judgement(real_realness.sign(), real.weights),
                "logits/fake": by_judgement(fake.logits, fake.weights),
                "signs/fake": by_judgement(fake_realness.sign(), fake.weights),
            },
            keep=self.critic.kept(real=real, fake=fake),
        )
        outcome.add("loss", self.objective.discriminator(real, fake, batch.at).weighed(real.weights), by="objective")
        for each in self.joined:
            extra = each.auxiliary.discriminator(real_seen, fake_seen, batch.at)
            outcome.add(each.name, extra, each.weight(batch.images), by=each.name)
        return outcome


@dataclass
class DiscriminatorPenalty:
    """The penalties that are on, scaled up by how many discriminator steps each stands for."""

    critic: Critic
    penalties: Sequence[PenaltyTerm]
    gain: float

    def __call__(self, batch: PhaseBatch) -> Outcome:
        """See Pass."""
        outcome = Outcome()
        for each in self.penalties:
            real = self._judged(given(batch.real), batch.real_condition, batch, each.uses[0])
            fake = None
            if each.needs_fakes:
                fake = self._judged(given(batch.fake), batch.fake_condition, batch, each.uses[1])
            values = Loss({each.name: each.values(real, fake, batch.at)})
            outcome.add("penalty", values, self.gain * each.weight(batch.images))
        return outcome

    def _judged(self, images: Tensor, condition: Condition, batch: PhaseBatch, use: str) -> Judged:
        return Judged(images, lambda others: self.critic.twice(batch, use, others, condition).logits)


@dataclass
class GeneratorPenalties:
    """The penalties on the generator, scaled up by how many of its steps each stands for."""

    maker: Maker
    penalties: Sequence[GeneratorPenaltyTerm]
    gain: float

    def __call__(self, batch: PhaseBatch) -> Outcome:
        """See Pass."""
        made = self.maker.twice(batch)
        outcome = Outcome(keep=self.maker.kept(made.out))
        for each in self.penalties:
            values, kept = each.penalty(made, batch.at)
            outcome.add("penalty", Loss({each.name: values}, kept), self.gain * each.weight(batch.images), by=each.name)
        return outcome


@dataclass
class GeneratorLoss:
    """Make the discriminator take generated images for real, and what auxiliaries add to that."""

    maker: Maker
    critic: Critic
    objective: Objective
    joined: Sequence[Joined]

    def __call__(self, batch: PhaseBatch) -> Outcome:
        """See Pass."""
        made = self.maker(batch)
        seen = self.critic(batch, "fake", made.images, replace(batch.fake_condition, sizes=made.sizes))
        seen, judged = replace(seen, remade=self.maker.remade(batch)), {"fake": seen.out}
        if self.objective.paired:
            judged["real"] = self.critic(batch, "real", given(batch.real), batch.real_condition).out
        scores = by_judgement(self.objective.score(seen.out).detach(), seen.out.weights).flatten(1).mean(1)
        outcome = Outcome(keep=self.maker.kept(made) | self.critic.kept(**judged), scores=scores)
        loss = self.objective.generator(seen.out, judged.get("real"), batch.at).weighed(seen.out.weights)
        outcome.add("loss", loss, by="objective", selectable=True)
        penalty = self.maker.penalty()
        if penalty is not None:
            outcome.add("penalty", Loss({"frontend": penalty.expand(len(batch.source))}))
        for each in self.joined:
            outcome.add(each.name, each.auxiliary.generator(seen, batch.at), each.weight(batch.images), by=each.name)
        return outcome
