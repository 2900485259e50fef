"""Settings of StyleGAN3's generator, which StyleGAN-XL's is as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from spider.errors import SpiderUsageError
from spider.gan.networks.config import NetworkChoice
from spider.gan.networks.stylegan_config import ChannelMax, ConvClamp, MappingLayers, WAvgBeta, WAvgSteps, WDim
from spider.settings.schedule import Bounds
from spider.settings.section import MAX_DIM, MAX_KIMG

if TYPE_CHECKING:
    from spider.config.schema import Config


# What the layers of a stem follow from, besides numbers of channels
_OF_STEM = ("equivariance", "layers", "critical_layers", "margin", "mapping_layers", "w_dim")
_OF_CLASSES = ("class_dim", "w_avg_of")


class Stylegan3GeneratorConfig(NetworkChoice):
    """StyleGAN3's generator: layers that are filtered against aliasing. Sides: 5 to 17 px times a power of 2."""

    kind: Literal["stylegan3"] = "stylegan3"
    equivariance: Literal["translation", "rotation"] = Field(
        "translation",
        description="movements of the input that images follow: translation (StyleGAN3-T: kernels of 3 px), or "
        "rotation too (StyleGAN3-R: kernels of 1 px and radial filters; it needs twice as many channels)",
    )
    layers: int = Field(
        14, ge=2, le=1000, description="layers between the input and the last layer, which makes the image"
    )
    critical_layers: int = Field(2, ge=1, le=1000, description="how many of the last layers keep the finest detail")
    margin: int = Field(10, ge=0, le=1000, description="pixels around the image, in all layers but the last two")
    channel_base: int = Field(
        32768, ge=1, le=MAX_DIM, description="a layer of cutoff f has channel_base / (2 f) channels, up to channel_max"
    )
    channel_max: ChannelMax = 512
    sides: tuple[Annotated[int, Bounds(ge=5, le=MAX_DIM)], ...] = Field(
        (),
        max_length=100,
        description="of a network that grows by stages (StyleGAN-XL): the side of each stage's images in px, the "
        "stem's first; [] = it does not grow",
    )
    head_layers: tuple[Annotated[int, Bounds(ge=2, le=1000)], ...] = Field(
        (7,),
        min_length=1,
        max_length=100,
        description="layers that each stage after the stem adds, besides the one that makes the image; one number "
        "goes for all stages. A stage drops the last generator.critical_layers of the one before, and its last layer",
    )
    head_equivariance: tuple[Literal["translation", "rotation"], ...] = Field(
        (),
        max_length=100,
        description="as generator.equivariance, for each stage after the stem; one word goes for all stages, [] = "
        "generator.equivariance. StyleGAN-XL's code has translation in all; StyleSAN-XL's networks of FFHQ have "
        "rotation up to 32 px",
    )
    stem: Literal["trains", "frozen", "frozen_but_input"] = Field(
        "trains",
        description="which stages train. trains: all; frozen: the last one; frozen_but_input: the last one and the "
        "waves of the input, as in StyleGAN-XL's code",
    )
    mapping_layers: MappingLayers = 2
    w_dim: WDim = 512
    w_avg_beta: WAvgBeta = 0.998
    class_dim: int | None = Field(
        None,
        ge=1,
        le=MAX_DIM,
        description="length of a vector that is learnt for each class, and that a layer brings to the mapping network "
        "(StyleGAN-XL: 320, see `spider classes`); null = the layer is told the number of the class, as in StyleGAN3",
    )
    w_avg_of: Literal["all", "class"] = Field(
        "all", description="all: one mean of w, to which truncation pulls; class: each class has its own (StyleGAN-XL)"
    )
    w_avg_steps: WAvgSteps = "discriminator"
    magnitude_half_life_kimg: float | None = Field(
        20.0,
        gt=0,
        le=MAX_KIMG,
        description="each layer divides its input by the root of its mean square, a moving mean of this half-life; "
        "null = the mean stays 1, as in StyleGAN-XL",
    )
    conv_clamp: ConvClamp = 256.0
    bf16_resolutions: int = Field(
        0,
        ge=0,
        le=64,
        description="how many of the highest resolutions have convolutions in bfloat16 on a GPU; filters never are",
    )
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})
    takes_images: ClassVar[bool] = False
    shrunk_by: ClassVar[tuple[str, ...]] = ("channel_base", "channel_max", "layers", "head_layers")
    has_latents: ClassVar[bool] = True
    of_training: ClassVar[frozenset[str]] = frozenset(
        {"w_avg_beta", "w_avg_steps", "magnitude_half_life_kimg", "bf16_resolutions", "stem"}
    )

    @model_validator(mode="after")
    def _some_layers_are_not_critical(self) -> Stylegan3GeneratorConfig:
        if self.critical_layers >= self.layers:
            raise ValueError(
                f"generator.critical_layers={self.critical_layers} must be less than generator.layers={self.layers}"
            )
        return self

    @property
    def layers_of_heads(self) -> tuple[int, ...]:
        """Of each stage after the stem."""
        given = self.head_layers
        return given * len(self.sides[1:]) if len(given) == 1 else given

    @property
    def rotations(self) -> tuple[bool, ...]:
        """Of each stage from the stem on, whether images follow rotations."""
        given = self.head_equivariance or (self.equivariance,)
        heads = given * len(self.sides[1:]) if len(given) == 1 else given
        return tuple(each == "rotation" for each in (self.equivariance, *heads))

    @model_validator(mode="after")
    def _stages_grow(self) -> Stylegan3GeneratorConfig:
        for before, side in pairwise(self.sides):
            if side <= before:
                raise ValueError(f"generator.sides={[*self.sides]} must rise")
        for key, given in ("head_layers", [*self.head_layers]), ("head_equivariance", [*self.head_equivariance]):
            if len(given) > 1 and len(given) != len(self.sides[1:]):
                raise ValueError(
                    f"generator.{key}={given} must be one, or one for each stage after the stem of "
                    f"generator.sides={[*self.sides]}"
                )
        for layers in self.head_layers:
            if layers <= self.critical_layers:
                raise ValueError(
                    f"generator.head_layers={layers} must be more than generator.critical_layers={self.critical_layers}"
                )
        return self

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.sides[1:] and self.stem != "trains" and config.init.kind == "none":
            yield (
                f"generator.sides={[*self.sides]} grows from given weights: --init RUN, whose images have a side of "
                f"{self.sides[-2]} px; or generator.stem=trains to begin at random"
            )

    def smaller_by(self) -> tuple[str, ...]:
        """See NetworkChoice. What has grown has a stem, which is as it is."""
        return ("head_layers",) if self.grows else self.shrunk_by[:3]

    def left_by_init(self) -> frozenset[str]:
        """See NetworkChoice. What did not grow says nothing of how it will."""
        return self.of_training if self.sides else self.of_training | {"sides", "head_layers", "head_equivariance"}

    @property
    def grows(self) -> bool:
        """See NetworkChoice."""
        return len(self.sides) > 1 and self.stem != "trains"

    @property
    def last_sides(self) -> tuple[int, int] | None:
        """See NetworkChoice."""
        return (self.sides[-2], self.sides[-1]) if self.sides[1:] else None

    def require_images(self, image_shape: tuple[int, int, int]) -> None:
        """See NetworkChoice."""
        from spider.gan.networks.bands import plan  # which needs these settings

        plan(self, image_shape)

    def require_beginning(self, init: str, side_of: Callable[[], int | None]) -> None:
        """See NetworkChoice."""
        if self.stem == "trains":
            return
        if len(self.sides) < 2:
            raise SpiderUsageError(
                f"generator.stem={self.stem}: nothing has grown: generator.sides names the sides of all stages, such "
                "as [16,32]; generator.stem=trains goes without"
            )
        side = side_of()
        if side is not None and side not in self.sides[-2:]:
            other = [*self.sides[:-2], side, self.sides[-1]]
            says = f", or say generator.sides={other}" if other == sorted({*other}) else ""
            raise SpiderUsageError(
                f"{init}: its images have a side of {side} px, and generator.sides={[*self.sides]} grows from "
                f"{self.sides[-2]} px: begin with a run of that side{says}"
            )

    def unlike_stem(self, stem: NetworkChoice, *, classes: bool) -> Iterator[tuple[str, Any, Any]]:
        """See NetworkChoice. Numbers of channels may differ where only the head has other ones by them."""
        if not isinstance(stem, Stylegan3GeneratorConfig):
            yield "kind", self.kind, stem.kind
            return
        wide = ("channel_base", "channel_max")
        as_stem = self.model_copy(update={key: getattr(stem, key) for key in wide})
        keys = [*_OF_STEM, *(_OF_CLASSES if classes else ())]
        for key in [*keys, *(wide if self._channels_of_stem() != as_stem._channels_of_stem() else ())]:
            if getattr(self, key) != getattr(stem, key):
                yield key, getattr(self, key), getattr(stem, key)
        grown = stem.sides or self.sides[:1]
        if grown not in (self.sides, self.sides[:-1]):
            yield "sides", self.sides, grown
            return
        frozen = len(self.sides) - 2  # heads
        if self.layers_of_heads[:frozen] != stem.layers_of_heads[:frozen]:
            yield "head_layers", self.head_layers, stem.head_layers
        if self.rotations[1:][:frozen] != stem.rotations[1:][:frozen]:
            yield "head_equivariance", self.head_equivariance, stem.head_equivariance

    def _channels_of_stem(self) -> list[int]:
        """Of the input and of all layers but the last stage's."""
        from spider.gan.networks.bands import stages  # which needs these settings

        side = self.sides[-1]
        return [band.channels for stage in stages(self, (1, side, side))[:-1] for band in stage]
