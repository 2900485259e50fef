"""Settings of the augmentations. `augment` is a list: images go through its members in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from spider.gan.overfit.config import OverfitConfig
from spider.settings.choices import Choice, Choices
from spider.settings.schedule import Bounds, Moving, Schedule
from spider.settings.section import MAX_FACTOR

if TYPE_CHECKING:
    from spider.config.schema import Config
    from spider.gan.augment.augmentation import Augmentation

MAX_BLUR = 1000  # pixels

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
    p: Literal["adaptive"] | Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        "adaptive", description="probability of each operation: steered by the overfitting, a number, or a schedule"
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


AugmentationConfig = Annotated[
    AugmentationChoice, Choices(DiffAugmentConfig, AdaConfig, ApaConfig, MirrorConfig, BlurConfig)
]
