"""Settings of the objective and of the penalties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from spider.settings.auto import Follows, OfImages
from spider.settings.choices import Choice, Choices
from spider.settings.schedule import AutoSchedule, Bounds, Schedule, largest
from spider.settings.section import MAX_BATCH, MAX_FACTOR, MAX_STEPS, Section

if TYPE_CHECKING:
    import torch
    from torch import nn

    from spider.config.schema import Config
    from spider.gan.objectives.generator_penalties import GeneratorPenalty
    from spider.gan.objectives.objective import Objective
    from spider.gan.objectives.penalties import Penalty

ObjectiveKind = Literal["wasserstein", "non_saturating", "saturating", "least_squares", "relativistic"]


class ObjectiveChoice(Choice):
    """The settings of an adversarial loss."""

    g_reals: Literal["own", "shared"] = Field(
        "own",
        description="of a loss that compares pairs (kind=relativistic): real images of the generator's step: a batch "
        "of its own, which the clock does not count (as R3GAN's code has it), or the discriminator's last one",
    )
    slicing: bool = Field(
        False,
        description="SAN: the direction of the discriminator's last layer learns by a loss of its own, which drives "
        "real and generated images apart along it",
    )
    direction_weights: Literal["normalised", "autograd"] | None = Field(
        None,
        description="slicing=true: an image counts in that loss by the slope of the generator's loss at it, divided by "
        "the sum of the slopes (normalised, as the paper has it) or not (autograd); null = normalised, and of "
        "kind=least_squares autograd, as published. With hinge and wasserstein all count alike",
    )

    @property
    def paired(self) -> bool:
        """Whether each generated image is compared with a real one, in the steps of both players."""
        return False

    def build(self, discriminator: nn.Module, device: torch.device) -> Objective:
        """The objective, where it is not of this package.

        Args:
            discriminator: whose outputs it gets, for an objective that changes some of its weights after a step.
            device: where tensors that it remembers lie.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    @model_validator(mode="after")
    def _only_pairs_need_reals(self) -> Self:
        if self.g_reals != "own" and not self.paired:
            raise ValueError(
                f"objective.g_reals goes with an objective that compares pairs, such as objective.kind=relativistic, "
                f"found objective.kind={self.kind}"
            )
        return self


class ObjectiveConfig(ObjectiveChoice):
    """The adversarial loss."""

    kind: ObjectiveKind = Field(
        "non_saturating",
        description="adversarial loss of both players; of a discriminator that is sliced, least_squares squares a "
        "softplus (BigVSAN), so that its slope keeps its sign",
    )

    @property
    def paired(self) -> bool:
        """See ObjectiveChoice."""
        return self.kind == "relativistic"


class HingeConfig(ObjectiveChoice):
    """The hinge loss."""

    kind: Literal["hinge"] = "hinge"
    margin_from: float = Field(
        1.0, ge=0, le=1, description="the margin of each logit is drawn evenly from this to 1 (FastGAN: 0.8)"
    )


AnyObjectiveConfig = Annotated[ObjectiveChoice, Choices(ObjectiveConfig, HingeConfig)]


class PenaltyChoice(Choice):
    """The settings of a penalty on the discriminator that is not of this package."""

    needs_fakes: ClassVar[bool] = False  # whether it looks at generated images
    weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(1.0, description="what it is multiplied by")

    def build(self) -> Penalty:
        """The penalty."""
        raise NotImplementedError(f"{type(self).__name__}.build")


class GeneratorPenaltyChoice(Choice):
    """The settings of a penalty on the generator."""

    weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(1.0, description="what it is multiplied by")

    def build(self, image_shape: tuple[int, int, int], device: torch.device) -> GeneratorPenalty:
        """The penalty.

        Args:
            image_shape: (C, H, W).
            device: where tensors that it remembers lie.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")


class GeneratorPenaltiesConfig(Section):
    """Penalties on the generator, in a step of its own, whose learning rate and betas are corrected for it."""

    interval_steps: int = Field(
        4, ge=2, le=MAX_STEPS, description="a step of penalties every so many iterations, scaled by as many"
    )
    batch_shrink: int = Field(2, ge=1, le=MAX_BATCH, description="that step uses the batch divided by this")
    path_length_weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        0.0,
        description="weight of E (|J^T y| - its moving mean)^2, J of the images by w, of a generator that has w "
        "(StyleGAN2: 2); 0 = off",
    )
    path_length_decay: float = Field(0.01, gt=0, le=1, description="by which that moving mean moves")
    more: tuple[Annotated[GeneratorPenaltyChoice, Choices()], ...] = Field(
        (), description="penalties of your own, as a list of sections {kind: module:Class} (docs/extending.md)"
    )

    @property
    def active(self) -> bool:
        """Whether any penalty is on."""
        return largest(self.path_length_weight) > 0 or bool(self.more)

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if largest(self.path_length_weight) > 0 and not config.generator.has_latents:
            yield (
                f"g_penalties.path_length_weight needs a generator that has w, such as generator.kind=stylegan2, found "
                f"generator.kind={config.generator.kind}"
            )

    def refusals_in_world(self, config: Config, world_size: int) -> Iterator[str]:
        """See Section."""
        if self.active and config.batch % (world_size * config.accumulation * self.batch_shrink):
            ranks = f" x {world_size} ranks" if world_size > 1 else ""
            yield (
                f"g_penalties.batch_shrink={self.batch_shrink}: batch={config.batch} does not divide into as many parts"
                f" x accumulation={config.accumulation}{ranks}"
            )


def _usual_gamma(config: Config, images: OfImages) -> float:
    """Of StyleGAN2-ADA's cfg=auto (train.py)."""
    return 0.0002 * images.side**2 / config.batch


class PenaltiesConfig(Section):
    """Gradient penalties on the discriminator, all computed every `interval_steps` and scaled up by it."""

    r1_gamma: Annotated[AutoSchedule, Bounds(ge=0, le=MAX_FACTOR), Follows(_usual_gamma)] = Field(
        0.0,
        description="gamma/2 E |grad D(real)|^2, summed over pixels; 0 = off; auto = StyleGAN2-ADA's rule: "
        "0.0002 side^2 / batch, of images of that side in pixels",
    )
    r1_factor: float = Field(
        1.0, gt=0, le=MAX_FACTOR, description="r1_gamma is multiplied by it, such as 0.25 to 4 in a sweep around auto"
    )
    r2_gamma: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        0.0, description="gamma/2 E |grad D(fake)|^2, summed over pixels; 0 = off"
    )
    gp_weight: float = Field(
        0.0, ge=0, le=MAX_FACTOR, description="weight of E (|grad D(mix)| - 1)^2, mix between real and fake; 0 = off"
    )
    interval_steps: int = Field(1, ge=1, le=MAX_STEPS, description="compute every so many steps, scaled by as many")
    more: tuple[Annotated[PenaltyChoice, Choices()], ...] = Field(
        (), description="penalties of your own, as a list of sections {kind: module:Class} (docs/extending.md)"
    )
    phase: Literal["merged", "own"] = Field(
        "merged",
        description="merged: part of the discriminator's step; own: a step of its own, with learning rate and betas "
        "corrected for it as StyleGAN2 does",
    )

    @property
    def active(self) -> bool:
        """Whether any penalty is on."""
        return largest(self.r1_gamma) > 0 or self.needs_fakes or bool(self.more)

    @property
    def has_own_step(self) -> bool:
        """Whether they come in a step of their own."""
        return self.phase == "own" and self.active

    @property
    def needs_fakes(self) -> bool:
        """Whether a penalty that is on looks at generated images."""
        looks_at_fakes = any(penalty.needs_fakes for penalty in self.more)
        return largest(self.r2_gamma) > 0 or self.gp_weight > 0 or looks_at_fakes

    @model_validator(mode="after")
    def _own_phase_is_lazy(self) -> PenaltiesConfig:
        if self.has_own_step and self.interval_steps < 2:
            raise ValueError("penalties.phase=own needs penalties.interval_steps >= 2; every step is phase=merged")
        return self
