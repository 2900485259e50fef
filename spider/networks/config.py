"""Settings of the generators and discriminators."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spider.config.section import MAX_WIDTH, Section

Layout = Literal["auto", "mnist", "celeba"]

_LAYOUT = (
    "layer plan of the authors' baselines: mnist (resolution 4b: two upsamplings), celeba (b 2^n: one layer each); "
    "auto = mnist up to 28 px, celeba above"
)


class DcganGeneratorConfig(Section):
    """DCGAN. Fed vectors, it starts from a dense layer; fed images, from a convolutional encoder (Spider DCGAN)."""

    kind: Literal["dcgan"] = "dcgan"
    layout: Layout = Field("auto", description=_LAYOUT)
    width: float = Field(1.0, gt=0, le=MAX_WIDTH, description="multiplies every layer's channels")
    norm: Literal["batch", "none"] = Field("batch", description="batch normalisation over the global batch, or none")


class DcganDiscriminatorConfig(Section):
    """DCGAN's discriminator: strided convolutions, one logit."""

    kind: Literal["dcgan"] = "dcgan"
    layout: Layout = Field("auto", description=_LAYOUT)
    width: float = Field(1.0, gt=0, le=MAX_WIDTH, description="multiplies every layer's channels")
    norm: Literal["batch", "none"] = Field(
        "none",
        description="batch normalisation over the global batch, or none; a gradient penalty per image assumes none",
    )


GeneratorNetworkConfig = Annotated[DcganGeneratorConfig, Field()]
DiscriminatorNetworkConfig = Annotated[DcganDiscriminatorConfig, Field()]
