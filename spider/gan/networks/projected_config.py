"""Settings of the projected discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from spider.arguments import MAX_RESOLUTION
from spider.errors import SpiderUsageError
from spider.gan.augment.config import MAPS_CHANNELS
from spider.gan.networks.backbone_config import (
    BackboneChoice,
    BackboneConfig,
    EfficientnetLite0Config,
    TorchvisionConfig,
)
from spider.gan.networks.config import (
    BatchNormedChoice,
    untold_refusals,
)
from spider.settings.marks import Names
from spider.settings.section import MAX_DIM, MAX_FACTOR, Place, Width

if TYPE_CHECKING:
    from spider.config.schema import Config

SCALES = 4  # maps of a pretrained network
MAX_BACKBONES = 8


class ProjectedDiscriminatorConfig(BatchNormedChoice):
    """Projected GAN's and StyleGAN-XL's discriminator: heads that judge the maps of frozen, pretrained networks."""

    kind: Literal["projected"] = "projected"
    weights: Annotated[Place | None, Names("file")] = Field(
        None,
        description="weights file of EfficientNet-Lite0, if `backbones` names no networks; null = the published "
        "weights, from the installed package",
    )
    backbones: tuple[BackboneConfig, ...] = Field(
        (),
        max_length=MAX_BACKBONES,
        description="pretrained networks, as a list of sections; [] = EfficientNet-Lite0 alone (Projected GAN). Each "
        "has its own heads, and its own draws of the augmentations. StyleGAN-XL: [{kind: deit}, {kind: "
        "efficientnet_lite0}]",
    )
    enlarge_to: int | None = Field(
        224,
        ge=128,
        le=MAX_RESOLUTION,
        multiple_of=32,
        description="smaller images are enlarged until their shorter side has this many pixels, as published; null = "
        "never. A smaller number is faster; 128 is the least: a head's last convolution needs 4 px of 1/32 of it. "
        "A transformer gets all images in its own size",
    )
    mixed_channels: int = Field(
        64, ge=1, le=MAX_DIM, description="channels of the largest mixed map; the smallest has 4 times as many"
    )
    heads: int = Field(4, ge=1, le=4, description="how many maps are judged, from the largest on")
    width: Width = Field(1.0, description="factor of the channels of the heads")
    separable: bool = Field(
        False, description="split each convolution of a head in two, as published with StyleGAN2's generator"
    )
    embedding_dim: int = Field(
        128, ge=1, le=MAX_DIM, description="length of the vector of each class, if there are classes (StyleGAN-XL: 320)"
    )
    class_layer: Literal["dense", "equalised"] = Field(
        "dense",
        description="the layer whose answer to a class is compared with the maps. dense: Projected GAN's; equalised: "
        "StyleGAN-XL's, with an equalised learning rate and the gain sqrt(2)",
    )
    noised: Literal["first", "last"] | None = Field(
        None,
        description="maps that get the noise of augment: kind=diffusion into=maps. first: those of the pretrained "
        "network; last: the mixed ones; null = none. It goes with one backbone",
    )
    noise_std: float = Field(0.5, gt=0, le=MAX_FACTOR, description="standard deviation of that noise")
    shrunk_by: ClassVar[tuple[str, ...]] = ("width", "mixed_channels", "enlarge_to")
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})

    @property
    def looks(self) -> tuple[BackboneChoice, ...]:
        """The pretrained networks, one at least."""
        return self.backbones or (EfficientnetLite0Config(weights=self.weights),)

    @property
    def looks_through(self) -> frozenset[str]:
        """See NetworkChoice."""
        return frozenset(each.embedding for each in self.looks if each.embedding is not None)

    @property
    def reads(self) -> Mapping[str, str]:
        """See NetworkChoice."""
        return {f"backbones.{i}": each.reads for i, each in enumerate(self.backbones) if each.reads is not None}

    def require_images(self, image_shape: tuple[int, int, int]) -> None:
        """See NetworkChoice. A network that is shown images in a size of its own is not known before it is read."""
        if any(isinstance(each, EfficientnetLite0Config | TorchvisionConfig) for each in self.looks):
            self.seen_size(image_shape)

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

    def seen_size(self, image_shape: tuple[int, int, int]) -> tuple[int, int] | None:
        """The height and width that images [C, H, W] are enlarged to, the longer in steps of 32 px; None: they are not.

        Raises:
            SpiderUsageError: they have other channels than grey or RGB, or a side that does not halve down.
        """
        channels, height, width = image_shape
        if channels not in (1, 3):
            raise SpiderUsageError(f"discriminator.kind=projected sees grey or RGB images, found {channels} channels")
        shorter = min(height, width)
        if self.enlarge_to is not None and shorter < self.enlarge_to:
            high, wide = (max(1, round(side * self.enlarge_to / shorter / 32)) * 32 for side in (height, width))
            return high, wide
        if shorter < 128 or height % 32 or width % 32:
            raise SpiderUsageError(
                f"discriminator.kind=projected sees images whose sides are multiples of 32 px, from 128 px on, found "
                f"{width}x{height}: pack the data at another --resolution, or set discriminator.enlarge_to"
            )
        return None

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.backbones and self.weights is not None:
            yield "discriminator.weights goes without discriminator.backbones, whose members have weights of their own"
        if self.noised is not None and len(self.looks) > 1:
            yield f"discriminator.noised={self.noised} goes with one backbone, found {len(self.looks)}"
        yield from self.split_refusals("discriminator", config)
        yield from untold_refusals(f"noised={self.noised}", config)
