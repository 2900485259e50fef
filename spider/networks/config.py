"""Settings of the generators and discriminators."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from spider.config.section import MAX_DIM, MAX_WIDTH, Section
from spider.errors import SpiderUsageError

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
    conditioning: Literal["concat", "batch_norm"] | None = Field(
        None,
        description="where there are classes: the vector of a class is joined to the input (to an image as channels), "
        "or each class has its own scales and shifts of the batch normalisation; null = batch_norm where norm=batch",
    )
    embedding_dim: int = Field(64, ge=1, le=MAX_DIM, description="dimensions of the vector of a class")
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})

    @property
    def joins_the_class(self) -> bool:
        """Whether the vector of a class is joined to the input."""
        return self.conditioning == "concat" or (self.conditioning is None and self.norm == "none")

    @model_validator(mode="after")
    def _class_norm_needs_norm(self) -> DcganGeneratorConfig:
        if self.conditioning == "batch_norm" and self.norm == "none":
            raise ValueError("generator.conditioning=batch_norm needs generator.norm=batch")
        return self

    @property
    def sees_the_batch(self) -> bool:
        """Whether what an image becomes depends on the others of its batch."""
        return self.norm == "batch"


class DcganDiscriminatorConfig(Section):
    """DCGAN's discriminator: strided convolutions, one logit; with classes a projection (Miyato & Koyama 2018)."""

    kind: Literal["dcgan"] = "dcgan"
    layout: Layout = Field("auto", description=_LAYOUT)
    width: float = Field(1.0, gt=0, le=MAX_WIDTH, description="multiplies every layer's channels")
    norm: Literal["batch", "none"] = Field(
        "none",
        description="batch normalisation over the global batch, or none; a gradient penalty per image assumes none",
    )
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})

    @property
    def sees_the_batch(self) -> bool:
        """Whether what an image becomes depends on the others of its batch."""
        return self.norm == "batch"


class R3ganConfig(Section):
    """R3GAN's network of that role: grouped residual blocks without normalisation. Sides: 4 px times a power of 2."""

    kind: Literal["r3gan"] = "r3gan"
    width: float = Field(
        1.0,
        gt=0,
        le=MAX_WIDTH,
        description="multiplies the channels: 768 up to 32 px, then half as many at each doubling",
    )
    blocks: int = Field(2, ge=1, le=1000, description="residual blocks at each resolution")
    embedding_dim: int | None = Field(
        None,
        ge=1,
        le=MAX_DIM,
        description="dimensions of a class, where there are classes; null = 64 in the generator, in the discriminator "
        "as many as it has channels at 4 px",
    )
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})

    @property
    def sees_the_batch(self) -> bool:
        """Whether what an image becomes depends on the others of its batch."""
        return False

    def plan(self, image_shape: tuple[int, int, int]) -> tuple[list[int], list[int]]:
        """Channels and groups at 4 px, 8 px, ..., up to the images' side.

        Raises:
            SpiderUsageError: the images' side is not 4 px times a power of 2.
        """
        _, height, width = image_shape
        levels = max(1, height.bit_length() - 2)
        if (height, width) != (4 << (levels - 1),) * 2:
            raise SpiderUsageError(
                f"kind=r3gan makes squares of 4, 8, 16, ... px, found {width}x{height}: "
                "pack the data at another --resolution"
            )
        groups = [max(1, round(96 * self.width / (1 << max(0, level - 3)))) for level in range(levels)]
        return [8 * group for group in groups], groups


GeneratorNetworkConfig = Annotated[DcganGeneratorConfig | R3ganConfig, Field(discriminator="kind")]
DiscriminatorNetworkConfig = Annotated[DcganDiscriminatorConfig | R3ganConfig, Field(discriminator="kind")]
