"""Settings of R3GAN's networks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from spider.errors import SpiderUsageError
from spider.gan.networks.config import NetworkChoice, doubling_sides
from spider.settings.schedule import Bounds
from spider.settings.section import MAX_DIM, Width

EXPANSION = 2  # a block has so many times as many channels inside
_IN_GROUP = 8  # channels of a group


class R3ganConfig(NetworkChoice):
    """R3GAN's network of that role: grouped residual blocks without normalisation. Sides: 4 px times a power of 2."""

    kind: Literal["r3gan"] = "r3gan"
    width: Width = Field(
        1.0,
        description="multiplies the channels: 768 up to 32 px, then half as many at each doubling",
    )
    channels: tuple[Annotated[int, Bounds(ge=1, le=MAX_DIM)], ...] = Field(
        (),
        max_length=100,
        description="at 4 px, 8 px, ..., up to the images' side, instead of those by width; [] = by width",
    )
    groups: tuple[Annotated[int, Bounds(ge=1, le=MAX_DIM)], ...] = Field(
        (),
        max_length=100,
        description="of the grouped convolutions, at 4 px, 8 px, ...; they divide twice the channels; [] = one for "
        "each 8 channels",
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
    shrunk_by: ClassVar[tuple[str, ...]] = ("width",)
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})

    def plan(
        self, image_shape: tuple[int, int, int], role: Literal["generator", "discriminator"]
    ) -> tuple[list[int], list[int]]:
        """Channels and groups at 4 px, 8 px, ..., up to the images' side.

        Args:
            role: of the network, which an error names.

        Raises:
            SpiderUsageError: the images' side is not 4 px times a power of 2; channels or groups are listed for more
                or fewer sides; groups do not divide the channels; there are both a list and a width.
        """
        sides = doubling_sides(f"{role}.kind={self.kind}", image_shape)
        if self.channels and self.width != 1:
            raise SpiderUsageError(f"{role}.width={self.width:g} multiplies no {role}.channels: leave one of them out")
        by_width = [max(1, round(96 * self.width / (1 << max(0, level - 3)))) for level in range(len(sides))]
        channels = [*self.channels] or [_IN_GROUP * count for count in by_width]
        groups = [*self.groups] or [max(1, count // _IN_GROUP) for count in channels]
        for key, listed in (("channels", channels), ("groups", groups)):
            if len(listed) != len(sides):
                raise SpiderUsageError(
                    f"{role}.{key}={listed} must list {len(sides)} numbers, one for each side from 4 to {sides[-1]} px"
                )
        for side, count, parts in zip(sides, channels, groups, strict=True):
            if EXPANSION * count % parts:
                raise SpiderUsageError(
                    f"{role}: {count} channels at {side} px are {EXPANSION * count} inside of a block, which {parts} "
                    f"groups do not divide: set {role}.groups"
                )
        return channels, groups
