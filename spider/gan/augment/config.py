"""Settings of the augmentations. `augment` is a list: images go through its members in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from spider.gan.overfit.config import OverfitConfig
from spider.settings.choices import Choice, Choices
from spider.settings.schedule import Bounds, Moving, Schedule
from spider.settings.section import MAX_FACTOR

if TYPE_CHECKING:
    from spider.config.schema import Config
    from spider.gan.augment.augmentation import Augmentation

MAX_BLUR = 1000  # pixels
MAX_DIFFUSION_STEPS = 100_000
_RISE_KIMG_WITH_GIVEN_WEIGHTS = 100.0
MAPS_CHANNELS = 512  # of inner maps that a discriminator may noise, in all of them together

Group = Literal["blit", "geom", "color", "filter", "noise", "cutout"]
Pipe = Literal["blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc", "upright"]
Operation = Literal[
    "xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac",
    "brightness", "contrast", "lumaflip", "hue", "saturation", "imgfilter", "noise", "cutout",
]  # fmt: skip
Policy = Literal["color", "translation", "cutout"]


class AugmentationChoice(Choice):
    """The settings of an augmentation."""

    def build(self, batch: int, image_shape: tuple[int, int, int]) -> Augmentation:
        """The augmentation, where it is not of this package.

        Args:
            batch: images of an iteration, over all ranks.
            image_shape: (C, H, W).
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    def for_given_weights(self) -> AugmentationChoice:
        """The same for a training that `--init RUN` gives its networks, unless the command line says otherwise."""
        return self


class DiffAugmentConfig(AugmentationChoice):
    """DiffAugment (Zhao et al. 2020): every image, always."""

    kind: Literal["diffaugment"] = "diffaugment"
    policy: tuple[Policy, ...] = Field(
        ("color", "translation", "cutout"), min_length=1, description="what is done, in this order"
    )
    translation: float = Field(0.125, ge=0, le=1, description="largest shift, as a part of the side")
    cutout: float = Field(
        0.5, gt=0, le=1, description="side of the hole, as a part of the image's (Projected GAN's copy has 0.2)"
    )


class AdaConfig(AugmentationChoice):
    """ADA's pipe (Karras et al. 2020): each operation by itself with probability p."""

    kind: Literal["ada"] = "ada"
    p: Literal["adaptive", "diffusion"] | Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        "adaptive",
        description="probability of each operation: steered by the overfitting, a number, or a schedule; diffusion = "
        "that of kind=diffusion, which the list must hold, but no more than diffusion_max",
    )
    diffusion_max: float = Field(
        0.25, gt=0, le=MAX_FACTOR, description="p=diffusion: largest p of the operations; that of the diffusion goes on"
    )
    pipe: Pipe = Field(
        "bgc",
        description="which operations, as StyleGAN2-ADA names their groups; upright = bgc without mirror images, "
        "quarter turns and rotations, for images whose orientation matters",
    )
    strengths: dict[Operation | Group, Annotated[float, Field(ge=0, le=MAX_FACTOR)]] = Field(
        {}, description="factors of p for single operations, or groups of them; 1 = as the pipe has it, 0 = left out"
    )
    control: OverfitConfig = Field(OverfitConfig(), description="p=adaptive: the rule")

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.p == "diffusion" and not any(isinstance(each, DiffusionConfig) for each in config.augment):
            yield "augment: kind=ada p=diffusion follows kind=diffusion, which augment does not have"

    def for_given_weights(self) -> AdaConfig:
        """p rises within 100 kimg, as in NVlabs/stylegan2-ada-pytorch, train.py --resume: D overfits at once."""
        rise_kimg = min(self.control.rise_kimg, _RISE_KIMG_WITH_GIVEN_WEIGHTS)
        return self.model_copy(update={"control": self.control.model_copy(update={"rise_kimg": rise_kimg})})


class ApaConfig(AugmentationChoice):
    """APA (Jiang et al. 2021): a real image is replaced by a generated one with probability p. For few images."""

    kind: Literal["apa"] = "apa"
    p: Literal["adaptive"] | Annotated[Schedule, Bounds(ge=0, le=1)] = Field(
        "adaptive", description="probability: steered by the overfitting, a number, or a schedule"
    )
    control: OverfitConfig = Field(OverfitConfig(), description="p=adaptive: the rule")

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if config.objective.paired:
            yield (
                f"augment: kind=apa cannot go with objective.kind={config.objective.kind}, because a real image that "
                "is replaced would be compared with itself"
            )


class MirrorConfig(AugmentationChoice):
    """Half of the images are mirrored, of real and of generated ones. (data.mirror=true mirrors the real ones only.)"""

    kind: Literal["mirror"] = "mirror"


class BlurConfig(AugmentationChoice):
    """All images are blurred, less and less (StyleGAN3-R). It comes first in the list, before others move pixels."""

    kind: Literal["blur"] = "blur"
    sigma: Annotated[Schedule, Bounds(ge=0, le=MAX_BLUR)] = Field(
        Moving(linear=(10, 0), until_kimg=200), description="of the blur, in pixels; less than 1/3 blurs nothing"
    )

    def for_given_weights(self) -> BlurConfig:
        """None, as in NVlabs/stylegan3, train.py --resume: coarse shapes are learnt."""
        return self.model_copy(update={"sigma": 0.0})


class DiffusionConfig(AugmentationChoice):
    """Diffusion-GAN (Wang et al. 2023): images after some steps of a diffusion; D is told how many."""

    kind: Literal["diffusion"] = "diffusion"
    p: Literal["adaptive"] | Annotated[Schedule, Bounds(ge=0, le=1)] = Field(
        "adaptive", description="how far the number of steps has gone from t_min to t_max: steered by the overfitting, "
        "a number, or a schedule"
    )  # fmt: skip
    into: Literal["images", "maps"] = Field(
        "images",
        description="what is noised: images, for a discriminator with told_time=true; or the maps of a projected one, "
        "as its `noised` says",
    )
    t_min: int = Field(10, ge=1, le=MAX_DIFFUSION_STEPS, description="steps at p = 0")
    t_max: int = Field(1000, ge=1, le=MAX_DIFFUSION_STEPS, description="steps at p = 1")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="variance of the noise of the first step")
    beta_end: float = Field(0.02, gt=0, lt=1, description="variance of the noise of the last step")
    noise_std: float = Field(0.05, gt=0, le=MAX_FACTOR, description="of the noise, where images are -1 to 1")
    law: Literal["priority", "uniform"] = Field(
        "priority", description="of the steps of an image: the more likely the more they are, or all alike"
    )
    diffused: int | None = Field(
        32,
        ge=1,
        le=64,
        description="so many of 64 images are diffused; null = min(64 p, 48), as published for into=maps",
    )
    control: OverfitConfig = Field(OverfitConfig(rise_kimg=100), description="p=adaptive: the rule")

    @model_validator(mode="after")
    def _steps_and_noise_do_not_fall(self) -> DiffusionConfig:
        if self.t_min > self.t_max or self.beta_start > self.beta_end:
            raise ValueError("augment: kind=diffusion: t_min is at most t_max, and beta_start at most beta_end")
        return self

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        told = config.discriminator.heeds_time
        if told != self.into:
            ways = {"images": "told_time=true (kind=stylegan2)", "maps": "noised (kind=projected)"}
            found = "is told nothing" if told is None else f"is told of {told}"
            yield (
                f"augment: kind=diffusion into={self.into} needs discriminator.{ways[self.into]}; "
                f"discriminator.kind={config.discriminator.kind} {found}"
            )


AugmentationConfig = Annotated[
    AugmentationChoice,
    Choices(DiffAugmentConfig, AdaConfig, ApaConfig, MirrorConfig, BlurConfig, DiffusionConfig),
]
