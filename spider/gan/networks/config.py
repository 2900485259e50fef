"""Settings of the generators and discriminators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from spider.arguments import MAX_RESOLUTION
from spider.errors import SpiderUsageError
from spider.gan.augment.config import MAPS_CHANNELS
from spider.settings.choices import Choice, Choices
from spider.settings.marks import Names
from spider.settings.schedule import AUTO, Auto, Bounds, arm
from spider.settings.section import MAX_BATCH, MAX_DIM, MAX_FACTOR, MAX_KIMG, MAX_WIDTH, Place

if TYPE_CHECKING:
    from torch import nn

    from cluster.world import World
    from spider.config.schema import Config
    from spider.gan.outputs import ConditionShape

# Of which kinds of sources normal vectors may stand for inputs: a mapping network divides each input by its length
NORMALISED_OR_ADAPTED = ("gaussian", "gamma", "images", "generator")

Layout = Literal["auto", "mnist", "celeba"]

_LAYOUT = (
    "layer plan of the authors' baselines: mnist (resolution 4b: two upsamplings), celeba (b 2^n: one layer each); "
    "auto = mnist up to 28 px, celeba above"
)

WAvgSteps = Literal["all", "discriminator"]

_W_AVG_STEPS = (
    "which steps move the mean of w: all on generated images, or the discriminator's main ones, as in StyleGAN3's code"
)


class NetworkChoice(Choice):
    """The settings of a generator, of a discriminator, or of both."""

    conditions: ClassVar[frozenset[str]] = frozenset()  # what it can be told: kinds of conditions, besides none
    takes_images: ClassVar[bool] = True  # as a generator; or vectors only
    # What `--init RUN` leaves as the training says: keys that say how it trains, and not which weights there are
    of_training: ClassVar[frozenset[str]] = frozenset()
    has_latents: ClassVar[bool] = False  # whether the generator returns GOut(latents=[N, L, D]), a w for each layer

    looks_through: ClassVar[str | None] = None  # the embedding whose network a discriminator looks through

    @property
    def heeds_time(self) -> Literal["images", "maps"] | None:
        """Of what a discriminator heeds `Condition.time`: that images were diffused [N], or how to noise its maps."""
        return None

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
    takes_images: ClassVar[bool] = False
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})

    def plan(self, image_shape: tuple[int, int, int]) -> tuple[list[int], list[int]]:
        """Channels and groups at 4 px, 8 px, ..., up to the images' side.

        Raises:
            SpiderUsageError: the images' side is not 4 px times a power of 2.
        """
        levels = range(len(_sides(self.kind, image_shape)))
        groups = [max(1, round(96 * self.width / (1 << max(0, level - 3)))) for level in levels]
        return [8 * group for group in groups], groups


_AutoWhole = Annotated[
    Annotated[int, Bounds(ge=1, le=MAX_DIM), Tag("number")] | Annotated[Auto, AUTO], Discriminator(arm)
]


class Stylegan2Config(NetworkChoice):
    """What both networks of StyleGAN2 have. Sides: 4 to 7 px of the shorter one, both times a power of 2."""

    kind: Literal["stylegan2"] = "stylegan2"
    channel_base: _AutoWhole = Field(
        32768,
        description="a layer of a side of n px has channel_base / n channels, ... (n: 4 for the smallest, then 8, 16); "
        "auto = StyleGAN2-ADA's rule: 16384, and for images from 512 px 32768",
    )
    channel_max: int = Field(512, ge=1, le=MAX_DIM, description="... at most so many (and one at least)")
    mapping_layers: int = Field(8, ge=1, le=1000, description="layers of the mapping network")
    conv_clamp: float | None = Field(
        256.0, gt=0, le=MAX_FACTOR, description="activations are clamped to this magnitude; null = not"
    )
    bf16_resolutions: int = Field(
        0,
        ge=0,
        le=64,
        description="so many of the highest resolutions, from 8 px up, compute in bfloat16 on a GPU; penalties too",
    )
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})
    has_latents: ClassVar[bool] = True

    def plan(self, image_shape: tuple[int, int, int]) -> list[tuple[tuple[int, int], int, bool]]:
        """Height and width, channels, and whether it computes in bfloat16 on a GPU, from the smallest size up.

        Images need not be squares: those of 256x128 px begin as 8x4, those of 96x96 as 6x6. A resolution has as many
        channels as the one of 4, 8, 16, ... px that a square of 4 px would have become.

        Raises:
            SpiderUsageError: the images' sides do not halve down together until the shorter one is 4 to 7 px.
        """
        sizes = _sizes(self.kind, image_shape)
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

    takes_images: ClassVar[bool] = False
    of_training: ClassVar[frozenset[str]] = frozenset(
        {"noise", "style_mixing", "mixing_source", "w_avg_beta", "w_avg_steps", "bf16_resolutions"}
    )
    architecture: Literal["skip", "resnet", "orig"] = Field(
        "skip", description="skip: images of all resolutions are added; resnet: blocks are residual; orig: neither"
    )
    w_dim: int = Field(512, ge=1, le=MAX_DIM, description="dimensions of w, and of the mapping network's layers")
    w_avg_beta: float = Field(
        0.995,
        ge=0,
        lt=1,
        description="decay of the mean of w, by each step that moves it; truncation pulls to it",
    )
    w_avg_steps: WAvgSteps = Field("all", description=_W_AVG_STEPS)
    noise: Literal["random", "const", "none"] = Field(
        "random", description="random: each image has noise of its own in each layer; const: all have the same"
    )
    style_mixing: float = Field(
        0.9, ge=0, le=1, description="share of images in training whose layers from a random one on take another w"
    )
    mixing_source: Literal["source", "gaussian"] = Field(
        "source",
        description="of what input the other w is made: source: another one of the source, through its adapter; "
        "gaussian: a normal vector in the place of an adapter's, as in the published cascades",
    )

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.style_mixing and self.mixing_source == "gaussian" and config.source.kind not in NORMALISED_OR_ADAPTED:
            yield (
                f"generator.mixing_source=gaussian goes with source.kind={', '.join(NORMALISED_OR_ADAPTED)}: "
                f"source.kind={config.source.kind} needs generator.mixing_source=source"
            )


class Stylegan3GeneratorConfig(NetworkChoice):
    """StyleGAN3's generator: layers that are filtered against aliasing. Sides: 5 to 17 px times a power of 2."""

    kind: Literal["stylegan3"] = "stylegan3"
    equivariance: Literal["translation", "rotation"] = Field(
        "translation",
        description="images follow translations of the input (StyleGAN3-T: kernels of 3 px), or also rotations "
        "(StyleGAN3-R: kernels of 1 px and radial filters, which want twice as many channels)",
    )
    layers: int = Field(14, ge=2, le=1000, description="layers after the input and before the last step to an image")
    critical_layers: int = Field(2, ge=1, le=1000, description="of these the last ones, which keep the finest detail")
    margin: int = Field(10, ge=0, le=1000, description="pixels around what is shown, in all layers but the last two")
    channel_base: int = Field(
        32768, ge=1, le=MAX_DIM, description="a layer whose cutoff is f has channel_base / (2 f) channels, ..."
    )
    channel_max: int = Field(512, ge=1, le=MAX_DIM, description="... at most so many (and one at least)")
    mapping_layers: int = Field(2, ge=1, le=1000, description="layers of the mapping network")
    w_dim: int = Field(512, ge=1, le=MAX_DIM, description="dimensions of w, and of the mapping network's layers")
    w_avg_beta: float = Field(
        0.998,
        ge=0,
        lt=1,
        description="decay of the mean of w, by each step that moves it; truncation pulls to it",
    )
    w_avg_steps: WAvgSteps = Field("discriminator", description=_W_AVG_STEPS)
    magnitude_half_life_kimg: float | None = Field(
        20.0,
        gt=0,
        le=MAX_KIMG,
        description="half-life of each layer's mean square, by whose root its input is divided; null = 1 for good, as "
        "in StyleGAN-XL",
    )
    conv_clamp: float | None = Field(
        256.0, gt=0, le=MAX_FACTOR, description="activations are clamped to this magnitude; null = not"
    )
    bf16_resolutions: int = Field(
        0,
        ge=0,
        le=64,
        description="convolutions of so many of the highest resolutions compute in bfloat16 on a GPU; filters never do",
    )
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})
    takes_images: ClassVar[bool] = False
    has_latents: ClassVar[bool] = True
    of_training: ClassVar[frozenset[str]] = frozenset(
        {"w_avg_beta", "w_avg_steps", "magnitude_half_life_kimg", "bf16_resolutions"}
    )

    @model_validator(mode="after")
    def _some_layers_are_not_critical(self) -> Stylegan3GeneratorConfig:
        if self.critical_layers >= self.layers:
            raise ValueError(
                f"generator.critical_layers={self.critical_layers} must be less than generator.layers={self.layers}"
            )
        return self


class Stylegan2DiscriminatorConfig(Stylegan2Config):
    """StyleGAN2's discriminator; with classes a projection on what a mapping network makes of the class."""

    of_training: ClassVar[frozenset[str]] = frozenset({"mbstd_group", "bf16_resolutions"})
    architecture: Literal["resnet", "skip", "orig"] = Field(
        "resnet", description="resnet: blocks are residual; skip: each block sees the image in its size; orig: neither"
    )
    mbstd_group: int | None = Field(
        4, ge=2, le=MAX_BATCH, description="images of the batch that are told how they vary together; null = none"
    )
    mbstd_features: int = Field(1, ge=1, le=MAX_DIM, description="numbers that tell it, each of as many channels")
    told_time: bool = Field(
        False, description="told how many steps an image was diffused (augment: kind=diffusion), beside its class"
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


class FastganGeneratorConfig(NetworkChoice):
    """FastGAN's generator, for few images. Fed vectors. Sides: 8, 16, 32, ... px, published from 256 (128) to 1024."""

    kind: Literal["fastgan"] = "fastgan"
    form: Literal["projected", "lite", "original"] = Field(
        "projected",
        description="projected: that of Projected GAN; lite: its smaller one, for fewer than 10,000 images; original: "
        "FastGAN's own, with a second image for its discriminator",
    )
    ngf: int | None = Field(
        None, ge=1, le=MAX_DIM, description="channels at 128 px; null = 128, and of form=original 64"
    )
    takes_images: ClassVar[bool] = False
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})

    def sides(self, image_shape: tuple[int, int, int]) -> list[int]:
        """4, 8, 16, ... px, up to the images' side.

        Raises:
            SpiderUsageError: the images' side is not 8 px times a power of 2, up to 1024.
        """
        sides = _sides(self.kind, image_shape)
        if not 8 <= sides[-1] <= 1024:
            raise SpiderUsageError(f"generator.kind=fastgan makes images of 8 to 1024 px, found {sides[-1]}")
        return sides

    def channels(self, side: int) -> int:
        """At a side of so many pixels."""
        ngf = self.ngf or (64 if self.form == "original" else 128)
        factor = {4: 16.0, 8: 8.0, 16: 4.0, 32: 2.0, 64: 2.0}.get(side, 128 / side)
        return max(1, int(ngf * factor))

    def layers(self, side: int) -> int:
        """How many layers a block has that ends at a side of so many pixels."""
        if self.form == "original":
            return 2 if side in (8, 32, 128, 512) else 1
        return 1 if self.form == "lite" else 2

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        return always_batch_norm_refusals("generator", self.kind, config)


class FastganDiscriminatorConfig(NetworkChoice):
    """FastGAN's discriminator: it judges an image and a smaller one. Sides: 32 to 1024 px, published from 256 px."""

    kind: Literal["fastgan"] = "fastgan"
    ndf: int = Field(64, ge=1, le=MAX_DIM, description="channels of its maps of 64 px")

    def side(self, image_shape: tuple[int, int, int]) -> int:
        """Of the images, in px. Raises SpiderUsageError: it is not 32 px times a power of 2, up to 1024."""
        side = _sides(self.kind, image_shape)[-1]
        if not 32 <= side <= 1024:
            raise SpiderUsageError(f"discriminator.kind=fastgan sees images of 32 to 1024 px, found {side}")
        return side

    def small_side(self, side: int) -> int:
        """Of the second, smaller image, in px."""
        return min(128, side // 2)

    def channels(self, number: int) -> int:
        """What its authors list under a number of pixels, 4 to 1024. A map of n px has what is listed under 2 n."""
        factor = {4: 16.0, 8: 16.0, 16: 8.0, 32: 4.0, 64: 2.0}.get(number, 128 / number)
        return max(1, int(self.ndf * factor))

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        return always_batch_norm_refusals("discriminator", self.kind, config)


class ProjectedDiscriminatorConfig(NetworkChoice):
    """Projected GAN's discriminator: heads that judge the maps of a frozen, pretrained EfficientNet-Lite0."""

    kind: Literal["projected"] = "projected"
    weights: Annotated[Place | None, Names("file")] = Field(
        None, description="weights of EfficientNet-Lite0; null = the published ones, from the installed package"
    )
    enlarge_to: int | None = Field(
        224,
        ge=128,
        le=MAX_RESOLUTION,
        multiple_of=32,
        description="images of a smaller side are enlarged to this many pixels first, as published; null = not. Less "
        "is faster; the smallest is 128",
    )
    mixed_channels: int = Field(64, ge=1, le=MAX_DIM, description="channels of the largest mixed map; they double")
    heads: int = Field(4, ge=1, le=4, description="so many maps are judged, from the largest on")
    width: float = Field(1.0, gt=0, le=MAX_WIDTH, description="multiplies the channels of the heads")
    separable: bool = Field(
        False, description="each convolution of a head in two, as published for the generator of StyleGAN2"
    )
    embedding_dim: int = Field(128, ge=1, le=MAX_DIM, description="dimensions of a class, where there are classes")
    noised: Literal["first", "last"] | None = Field(
        None,
        description="maps that are noised as augment: kind=diffusion into=maps says: first, those of the pretrained "
        "network; last, the mixed ones; null = none",
    )
    noise_std: float = Field(0.5, gt=0, le=MAX_FACTOR, description="of that noise")
    conditions: ClassVar[frozenset[str]] = frozenset({"class"})
    looks_through: ClassVar[str | None] = "efficientnet"

    def channels(self, before_end: int) -> int:
        """Of a head's map that is halved so many times before the end: 512, 256, 128, 64 (of width 1), 2 at least."""
        return max(2, round((512 >> before_end) * self.width))

    @property
    def heeds_time(self) -> Literal["images", "maps"] | None:
        """See NetworkChoice."""
        return None if self.noised is None else "maps"

    def noisy_maps(
        self, pretrained: Sequence[int], mixed: Sequence[int], seen: tuple[int, int]
    ) -> list[tuple[int, int, int]]:
        """Channels, height and width of the maps that are noised, of images of the size that is seen.

        Args:
            pretrained, mixed: channels of the maps of 1/4, 1/8, ..., and of those of 1/2, 1/4, ... of the side.

        Raises:
            SpiderUsageError: they have more channels than are told.
        """
        if self.noised is None:
            return []
        channels, shrunk = (pretrained, 4) if self.noised == "first" else (mixed, 2)
        if sum(channels) > MAPS_CHANNELS:
            raise SpiderUsageError(
                f"discriminator.noised={self.noised}: the maps have {sum(channels)} channels, and noise is told of "
                f"{MAPS_CHANNELS}: set discriminator.mixed_channels to at most {MAPS_CHANNELS // 8}"
            )
        return [(n, seen[0] // shrunk >> level, seen[1] // shrunk >> level) for level, n in enumerate(channels)]

    def seen_side(self, image_shape: tuple[int, int, int]) -> int | None:
        """What images [C, H, W] are enlarged to, in pixels; None: they are not.

        Raises:
            SpiderUsageError: they have other channels than grey or RGB, or a side that does not halve down.
        """
        channels, height, width = image_shape
        if channels not in (1, 3):
            raise SpiderUsageError(f"discriminator.kind=projected sees grey or RGB images, found {channels} channels")
        if self.enlarge_to is not None and min(height, width) < self.enlarge_to:
            return self.enlarge_to
        if min(height, width) < 128 or height % 32 or width % 32:
            raise SpiderUsageError(
                f"discriminator.kind=projected sees images whose sides are multiples of 32 px, from 128 px on, found "
                f"{width}x{height}: pack the data at another --resolution, or set discriminator.enlarge_to"
            )
        return None

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        yield from always_batch_norm_refusals("discriminator", self.kind, config)
        yield from untold_refusals(f"noised={self.noised}", config)


def untold_refusals(key: str, config: Config) -> Iterator[str]:
    """Why a discriminator cannot heed the time: nothing tells it. `key`: that which makes it heed the time."""
    what = config.discriminator.heeds_time
    if what is not None and not any(getattr(each, "into", what) == what for each in config.augment if _tells(each)):
        yield f"discriminator.{key} heeds what augment: kind=diffusion into={what} tells: add that"


def _tells(augmentation: Choice) -> bool:
    """Whether an augmentation tells the time; one from outside of this package may."""
    return augmentation.kind == "diffusion" or ":" in augmentation.kind


def always_batch_norm_refusals(role: str, kind: str, config: Config) -> Iterator[str]:
    """The same as `batch_norm_refusals`, of a network that always normalises."""
    if config.accumulation > 1:
        yield (
            f"{role}.kind={kind} normalises over the global batch, which accumulation={config.accumulation} splits: "
            "set accumulation=1"
        )


def _sizes(kind: str, image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Heights and widths, each twice the one before, up to the images'. Raises SpiderUsageError."""
    _, height, width = image_shape
    shorter = min(height, width)
    levels = max(0, shorter.bit_length() - 3)  # 4 to 7 px are left of the shorter side
    if shorter < 4 or (height | width) & ((1 << levels) - 1):
        raise SpiderUsageError(
            f"kind={kind} makes images whose sides halve down together until the shorter one is 4 to 7 px, such as "
            f"64x64, 96x96 or 512x256, found {width}x{height}: pack the data at another --resolution"
        )
    return [(height >> level, width >> level) for level in reversed(range(levels + 1))]


def _sides(kind: str, image_shape: tuple[int, int, int]) -> list[int]:
    """4, 8, 16, ... up to the images' side in pixels. Raises SpiderUsageError."""
    _, height, width = image_shape
    sides = [4 << level for level in range(max(1, height.bit_length() - 2))]
    if (height, width) != (sides[-1], sides[-1]):
        raise SpiderUsageError(
            f"kind={kind} makes squares of 4, 8, 16, ... px, found {width}x{height}: "
            "pack the data at another --resolution"
        )
    return sides


GeneratorNetworkConfig = Annotated[
    NetworkChoice,
    Choices(
        DcganGeneratorConfig,
        R3ganConfig,
        Stylegan2GeneratorConfig,
        Stylegan3GeneratorConfig,
        FastganGeneratorConfig,
    ),
]
DiscriminatorNetworkConfig = Annotated[
    NetworkChoice,
    Choices(
        DcganDiscriminatorConfig,
        R3ganConfig,
        Stylegan2DiscriminatorConfig,
        ProjectedDiscriminatorConfig,
        FastganDiscriminatorConfig,
    ),
]
