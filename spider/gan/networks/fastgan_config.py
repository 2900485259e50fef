"""Settings of FastGAN's networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from spider.errors import SpiderUsageError
from spider.gan.networks.chain_config import ChainableChoice
from spider.gan.networks.config import (
    BatchNormedChoice,
    doubling_sides,
)
from spider.settings.section import MAX_DIM

if TYPE_CHECKING:
    from spider.config.schema import Config


def small_side(side: int) -> int:
    """Of the second, smaller image, which the discriminator sees beside one of such a side, in px."""
    return min(128, side // 2)


class FastganGeneratorConfig(BatchNormedChoice):
    """FastGAN's generator, for few images. Fed vectors. Sides: 8, 16, 32, ... px, published from 256 (128) to 1024."""

    kind: Literal["fastgan"] = "fastgan"
    form: Literal["projected", "lite", "original"] = Field(
        "projected",
        description="projected: as in Projected GAN; lite: its smaller form, for fewer than 10,000 images; original: "
        "FastGAN's own, which also makes a smaller image for its discriminator",
    )
    ngf: int | None = Field(
        None, ge=1, le=MAX_DIM, description="channels at 128 px; null = 128, or 64 for form=original"
    )
    takes_images: ClassVar[bool] = False
    shrunk_by: ClassVar[tuple[str, ...]] = ("ngf", "form")
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})

    def sides(self, image_shape: tuple[int, int, int]) -> list[int]:
        """4, 8, 16, ... px, up to the images' side.

        Raises:
            SpiderUsageError: the images' side is not 8 px times a power of 2, up to 1024.
        """
        sides = doubling_sides(f"generator.kind={self.kind}", image_shape)
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
        return self.split_refusals("generator", config)


class FastganDiscriminatorConfig(ChainableChoice):
    """FastGAN's discriminator: it judges an image and a smaller one. Sides: 32 to 1024 px, published from 256 px."""

    kind: Literal["fastgan"] = "fastgan"
    brings_decoders: ClassVar[bool] = True
    shrunk_by: ClassVar[tuple[str, ...]] = ("ndf",)
    ndf: int = Field(
        64, ge=1, le=MAX_DIM, description="channels of the maps of 64 px; others have a multiple or a part of them"
    )
    norm: Literal["batch", "chain", "chain_cumulative"] = Field(
        "batch",
        description="batch normalisation over the global batch, or in its places that of CHAIN, which auxiliary: "
        "kind=chain steers, by the batch or (chain_cumulative) by moving means. Decoders keep batch normalisation",
    )

    def side(self, image_shape: tuple[int, int, int]) -> int:
        """Of the images, in px. Raises SpiderUsageError: it is not 32 px times a power of 2, up to 1024."""
        side = doubling_sides(f"discriminator.kind={self.kind}", image_shape)[-1]
        if not 32 <= side <= 1024:
            raise SpiderUsageError(f"discriminator.kind=fastgan sees images of 32 to 1024 px, found {side}")
        return side

    def channels(self, number: int) -> int:
        """What its authors list under a number of pixels, 4 to 1024. A map of n px has what is listed under 2 n."""
        factor = {4: 16.0, 8: 16.0, 16: 8.0, 32: 4.0, 64: 2.0}.get(number, 128 / number)
        return max(1, int(self.ndf * factor))
