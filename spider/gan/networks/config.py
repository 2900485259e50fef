"""Settings of the generators and discriminators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from spider.errors import SpiderUsageError
from spider.settings.choices import Choice, Choices
from spider.settings.section import MAX_DIM, MAX_WIDTH

if TYPE_CHECKING:
    from torch import nn

    from cluster.world import World
    from spider.config.schema import Config
    from spider.gan.outputs import ConditionShape

Layout = Literal["auto", "mnist", "celeba"]

_LAYOUT = (
    "layer plan of the authors' baselines: mnist (resolution 4b: two upsamplings), celeba (b 2^n: one layer each); "
    "auto = mnist up to 28 px, celeba above"
)


class NetworkChoice(Choice):
    """The settings of a generator, of a discriminator, or of both."""

    conditions: ClassVar[frozenset[str]] = frozenset()  # what it can be told: kinds of conditions, besides none

    def build_generator(
        self,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        world: World,
        frontend: nn.Module | None,
    ) -> nn.Module:
        """The generator, where it is not of this package: (inputs [N, *input_shape], Condition) -> GOut.

        A network that needs random numbers names them in an attribute `draws`, {name: Draw}, and gets them as
        `Condition.draws`. One that remembers is a Method as well. The same holds for discriminators.

        Args:
            input_shape: of one input: (d,) for a vector, (C, H, W) for an image.
            image_shape: (C, H, W) of the images to learn.
            told: what the condition tells of every image.
            world: the ranks, for what looks at the global batch.
            frontend: to be called on the inputs first, and kept as the attribute `frontend`; None for most sources.
        """
        raise NotImplementedError(f"{type(self).__name__}.build_generator: it is no generator")

    def build_discriminator(self, image_shape: tuple[int, int, int], told: ConditionShape, world: World) -> nn.Module:
        """The discriminator, as above: (images [N, C, H, W], Condition) -> DOut."""
        raise NotImplementedError(f"{type(self).__name__}.build_discriminator: it is no discriminator")


def batch_norm_refusals(role: str, norm: str, config: Config) -> Iterator[str]:
    """Why a network with a key `norm` cannot go with the rest: micro-batches split what it normalises over."""
    if norm == "batch" and config.accumulation > 1:
        yield (
            f"{role}.norm=batch normalises over the global batch, which accumulation={config.accumulation} "
            f"splits: set accumulation=1 or {role}.norm=none"
        )


class DcganGeneratorConfig(NetworkChoice):
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

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        return batch_norm_refusals("generator", self.norm, config)


class DcganDiscriminatorConfig(NetworkChoice):
    """DCGAN's discriminator: strided convolutions, one logit; with classes a projection (Miyato & Koyama 2018)."""

    kind: Literal["dcgan"] = "dcgan"
    layout: Layout = Field("auto", description=_LAYOUT)
    width: float = Field(1.0, gt=0, le=MAX_WIDTH, description="multiplies every layer's channels")
    norm: Literal["batch", "none"] = Field(
        "none",
        description="batch normalisation over the global batch, or none; a gradient penalty per image assumes none",
    )
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        return batch_norm_refusals("discriminator", self.norm, config)


class R3ganConfig(NetworkChoice):
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


GeneratorNetworkConfig = Annotated[NetworkChoice, Choices(DcganGeneratorConfig, R3ganConfig)]
DiscriminatorNetworkConfig = Annotated[NetworkChoice, Choices(DcganDiscriminatorConfig, R3ganConfig)]
