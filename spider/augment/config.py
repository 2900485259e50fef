"""Settings of the augmentations. `augment` is a list: images go through its members in order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spider.config.section import Section
from spider.overfit.config import OverfitConfig

Pipe = Literal["blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc", "upright"]
Operation = Literal[
    "xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac",
    "brightness", "contrast", "lumaflip", "hue", "saturation", "imgfilter", "noise", "cutout",
]  # fmt: skip
Policy = Literal["color", "translation", "cutout"]


class DiffAugmentConfig(Section):
    """DiffAugment (Zhao et al. 2020): every image, always."""

    kind: Literal["diffaugment"] = "diffaugment"
    policy: tuple[Policy, ...] = Field(
        ("color", "translation", "cutout"), min_length=1, description="what is done, in this order"
    )
    translation: float = Field(0.125, ge=0, le=1, description="largest shift, as a part of the side")
    cutout: float = Field(
        0.5, gt=0, le=1, description="side of the hole, as a part of the image's (Projected GAN's copy has 0.2)"
    )


class AdaConfig(Section):
    """ADA's pipe (Karras et al. 2020): each operation by itself with probability p."""

    kind: Literal["ada"] = "ada"
    mode: Literal["ada", "fixed"] = Field(
        "ada", description="ada: p moves with the overfitting; fixed: p stays at control.p_start"
    )
    pipe: Pipe = Field(
        "bgc",
        description="which operations, as StyleGAN2-ADA names their groups; upright = bgc without mirror images, "
        "quarter turns and rotations, for images whose orientation matters",
    )
    without: tuple[Operation, ...] = Field((), description="operations of the pipe to leave out")
    control: OverfitConfig = Field(OverfitConfig(), description="the rule of p")


AugmentationConfig = Annotated[DiffAugmentConfig | AdaConfig, Field(discriminator="kind")]
