"""Settings of the networks of StyleGAN2, and what StyleGAN3 shares with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from spider.gan.networks.config import (
    NetworkChoice,
    halving_sizes,
    untold_refusals,
)
from spider.settings.schedule import AutoWhole, Bounds
from spider.settings.section import MAX_BATCH, MAX_DIM, MAX_FACTOR

if TYPE_CHECKING:
    from spider.config.schema import Config

# Kinds of sources with which generator.mixing_source=gaussian goes. The vectors of the first two have the directions of
# normal vectors, and the mapping network divides by their lengths. The other two give images: a normal vector takes the
# place of the vector that an adapter makes of one.
NORMALISED_OR_ADAPTED = ("gaussian", "gamma", "images", "generator")

# Keys of StyleGAN2 and of StyleGAN3, each of which says its own defaults
ChannelMax = Annotated[int, Field(ge=1, le=MAX_DIM, description="largest number of channels of a layer")]
MappingLayers = Annotated[int, Field(ge=1, le=1000, description="layers of the mapping network")]
WDim = Annotated[int, Field(ge=1, le=MAX_DIM, description="dimensions of w, and of the mapping network's layers")]
WAvgBeta = Annotated[
    float,
    Field(ge=0, lt=1, description="share of the mean of w that each update keeps; truncation pulls w to this mean"),
]
WAvgSteps = Annotated[
    Literal["all", "discriminator"],
    Field(
        description="steps that update the mean of w: all = those that generate images; discriminator = the main "
        "steps of the discriminator, as in StyleGAN3's code"
    ),
]
ConvClamp = Annotated[
    float | None,
    Field(gt=0, le=MAX_FACTOR, description="limit of the magnitude of activations; null = none"),
]


class Stylegan2Config(NetworkChoice):
    """What both networks of StyleGAN2 have. Both sides of an image halve evenly until the shorter one is 4 to 7 px."""

    role: ClassVar[Literal["generator", "discriminator"]]
    kind: Literal["stylegan2"] = "stylegan2"
    channel_base: Annotated[AutoWhole, Bounds(ge=1, le=MAX_DIM)] = Field(
        32768,
        description="a layer has channel_base / n channels, up to channel_max; n is 4 for the smallest maps, then 8, "
        "16, ...; auto = StyleGAN2-ADA's rule: 16384, and 32768 for images from 512 px",
    )
    channel_max: ChannelMax = 512
    mapping_layers: MappingLayers = 8
    conv_clamp: ConvClamp = 256.0
    bf16_resolutions: int = Field(
        0,
        ge=0,
        le=64,
        description="how many of the highest resolutions compute in bfloat16 on a GPU, in penalties too; the smallest "
        "never does",
    )
    shrunk_by: ClassVar[tuple[str, ...]] = ("channel_base", "channel_max")
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})
    has_latents: ClassVar[bool] = True

    def plan(self, image_shape: tuple[int, int, int]) -> list[tuple[tuple[int, int], int, bool]]:
        """Height and width, channels, and whether it computes in bfloat16 on a GPU, from the smallest size up.

        Images need not be squares: those of 256x128 px begin as 8x4, those of 96x96 as 6x6. A resolution has as many
        channels as the one of 4, 8, 16, ... px that a square of 4 px would have become.

        Raises:
            SpiderUsageError: the images' sides do not halve down together until the shorter one is 4 to 7 px.
        """
        sizes = halving_sizes(f"{self.role}.kind={self.kind}", image_shape)
        coarse = max(1, len(sizes) - self.bf16_resolutions)
        longer = max(sizes[-1])
        return [(size, self.channels(4 << level, longer), level >= coarse) for level, size in enumerate(sizes)]

    def channels(self, side: int, of_images: int) -> int:
        """Of the layers of a side in pixels, for images of such a side."""
        base = self.channel_base
        if base == "auto":
            base = 32768 if of_images >= 512 else 16384
        return max(1, min(base // side, self.channel_max))


class Stylegan2GeneratorConfig(Stylegan2Config):
    """StyleGAN2's generator: a mapping network, and layers whose channels its w scales. Fed vectors."""

    role = "generator"
    takes_images: ClassVar[bool] = False
    of_training: ClassVar[frozenset[str]] = frozenset(
        {"noise", "style_mixing", "mixing_source", "w_avg_beta", "w_avg_steps", "bf16_resolutions"}
    )
    architecture: Literal["skip", "resnet", "orig"] = Field(
        "skip", description="skip: images of all resolutions are added; resnet: blocks are residual; orig: neither"
    )
    w_dim: WDim = 512
    w_avg_beta: WAvgBeta = 0.995
    w_avg_steps: WAvgSteps = "all"
    noise: Literal["random", "const", "none"] = Field(
        "random", description="random: each image gets its own noise; const: all images get the same noise"
    )
    style_mixing: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of training images whose later layers, from a random one on, use the w of another input",
    )
    mixing_source: Literal["source", "gaussian"] = Field(
        "source",
        description="the other input of style_mixing: source: another one of the source, through its adapter; "
        "gaussian: a normal vector in place of what the adapter gives, as in the published cascades",
    )

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.style_mixing and self.mixing_source == "gaussian" and config.source.kind not in NORMALISED_OR_ADAPTED:
            yield (
                f"generator.mixing_source=gaussian goes with source.kind={', '.join(NORMALISED_OR_ADAPTED)}: "
                f"source.kind={config.source.kind} needs generator.mixing_source=source"
            )


class Stylegan2DiscriminatorConfig(Stylegan2Config):
    """StyleGAN2's discriminator; with classes a projection on what a mapping network makes of the class."""

    tells_map: ClassVar[bool] = True
    role = "discriminator"
    of_training: ClassVar[frozenset[str]] = frozenset({"mbstd_group", "bf16_resolutions"})
    architecture: Literal["resnet", "skip", "orig"] = Field(
        "resnet", description="resnet: blocks are residual; skip: each block sees the image in its size; orig: neither"
    )
    mbstd_group: int | None = Field(
        4, ge=2, le=MAX_BATCH, description="images in a group, whose standard deviation is a feature; null = none"
    )
    mbstd_features: int = Field(
        1, ge=1, le=MAX_DIM, description="features of that kind, each of an equal part of the channels"
    )
    told_time: bool = Field(
        False, description="it is told how many diffusion steps an image went through (augment: kind=diffusion)"
    )

    @property
    def heeds_time(self) -> Literal["images", "maps"] | None:
        """See NetworkChoice."""
        return "images" if self.told_time else None

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        return untold_refusals("told_time=true", config)

    @model_validator(mode="after")
    def _features_share_the_channels(self) -> Stylegan2DiscriminatorConfig:
        channels, features = self.channels(4, 4), self.mbstd_features
        if self.mbstd_group is not None and channels % features:
            raise ValueError(f"discriminator.mbstd_features={features} must divide the {channels} channels at 4 px")
        return self

    def refusals_in_world(self, config: Config, world_size: int) -> Iterator[str]:
        """See Section. Groups are of the global batch: a micro-batch must hold whole ones."""
        group, parts = self.mbstd_group, config.accumulation
        if group is None:
            return
        if config.batch % group:
            yield f"discriminator.mbstd_group={group} does not divide batch={config.batch}"
        elif parts > 1 and config.batch // group % (world_size * parts):
            ranks = f" x {world_size} ranks" if world_size > 1 else ""
            yield (
                f"discriminator.mbstd_group={group} does not divide the micro-batches: batch={config.batch} / "
                f"(accumulation={parts}{ranks}) is {config.batch // (world_size * parts)}"
            )
