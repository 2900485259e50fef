"""Settings of BigGAN's networks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from spider.errors import SpiderUsageError
from spider.gan.networks.config import BatchNormedChoice, NetworkChoice
from spider.settings.section import MAX_DIM

if TYPE_CHECKING:
    from spider.config.schema import Config

SIDES = (32, 64, 128, 256, 512)  # px, of the images

# Channels, in units of `ch`: of the generator's map of 4 px and of what its blocks give, each twice the size
_GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
# Of what the discriminator's blocks give, each half the size, but for the last one or two
_DISCRIMINATOR = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
_KEPT = {32: 2}  # the last so many blocks that keep the size; else 1
_ATTENTION = {32: (), 64: (32,)}  # px; else 64

_CH = "width: maps have 1 to 16 times as many channels as this; published: 96, and 64 for half the capacity"
_SIDES_OF_ATTENTION = (
    "sides in px of the maps that have self-attention, as a list; [] = none; null = [64], but [32] for images of "
    "64 px and [] for images of 32 px"
)
_Attention = Annotated[tuple[Annotated[int, Field(ge=4, le=512)], ...], Field(max_length=8)] | None


class BigganGeneratorConfig(BatchNormedChoice):
    """BigGAN's generator, for many images and large batches. Fed vectors. Images of 32, 64, 128, 256 or 512 px."""

    kind: Literal["biggan"] = "biggan"
    ch: int = Field(64, ge=1, le=MAX_DIM, description=_CH)
    attention: _Attention = Field(None, description=_SIDES_OF_ATTENTION)
    hierarchical: bool = Field(
        True,
        description="true: an input is split into equal parts: the image begins from the first, and each block gets "
        "one more beside the condition. At 64 px these are 5 parts, and each doubling of the side adds one",
    )
    embedding_dim: int = Field(
        128,
        ge=1,
        le=MAX_DIM,
        description="length of the vector of each class; without classes there is one vector for all",
    )
    instance_dim: int = Field(
        512, ge=1, le=MAX_DIM, description="numbers that a layer makes of an instance's feature, for the blocks"
    )
    takes_images: ClassVar[bool] = False
    shrunk_by: ClassVar[tuple[str, ...]] = ("ch",)
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})

    def plan(self, image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
        """Side in px and channels of each map, from 4 px on. Raises SpiderUsageError: the images have another size."""
        side = _side(f"generator.kind={self.kind}", image_shape)
        return [(4 << level, self.ch * factor) for level, factor in enumerate(_GENERATOR[side])]

    def attended(self, image_shape: tuple[int, int, int]) -> Collection[int]:
        """Sides of the maps that have self-attention. Raises SpiderUsageError: there is no such map."""
        return _attended("generator", self.attention, image_shape, [side for side, _ in self.plan(image_shape)[1:]])

    def parts(self, dim: int, blocks: int) -> list[int]:
        """How many numbers of an input of `dim` begin the image, then how many each of the blocks is told.

        Raises:
            SpiderUsageError: they cannot be split evenly. (The public code leaves out what remains.)
        """
        if not self.hierarchical:
            return [dim, *[0] * blocks]
        count = blocks + 1
        if dim % count:
            near = max(1, round(dim / count)) * count
            raise SpiderUsageError(
                f"generator.hierarchical=true splits an input in {count} parts, and {dim} numbers do not divide: "
                f"set source.dim={near}, or generator.hierarchical=false"
            )
        return [dim // count] * count

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        return self.split_refusals("generator", config)


class BigganDiscriminatorConfig(NetworkChoice):
    """BigGAN's discriminator, a projection. Images of 32, 64, 128, 256 or 512 px, of which 512 is not published."""

    kind: Literal["biggan"] = "biggan"
    ch: int = Field(64, ge=1, le=MAX_DIM, description=_CH)
    attention: _Attention = Field(None, description=_SIDES_OF_ATTENTION)
    shrunk_by: ClassVar[tuple[str, ...]] = ("ch",)
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})

    def plan(self, image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
        """Side in px and channels of what each block gives. Raises SpiderUsageError: the images have another size."""
        side = _side(f"discriminator.kind={self.kind}", image_shape)
        factors = _DISCRIMINATOR[side]
        least = side >> (len(factors) - _KEPT.get(side, 1))
        return [(max(least, side >> level), self.ch * factor) for level, factor in enumerate(factors, 1)]

    def attended(self, image_shape: tuple[int, int, int]) -> Collection[int]:
        """Sides of the maps that have self-attention. Raises SpiderUsageError: there is no such map."""
        return _attended("discriminator", self.attention, image_shape, [side for side, _ in self.plan(image_shape)])


def _side(choice: str, image_shape: tuple[int, int, int]) -> int:
    _, height, width = image_shape
    if height != width or height not in SIDES:
        raise SpiderUsageError(
            f"{choice} is for squares of {', '.join(map(str, SIDES))} px, found {width}x{height}: pack the data at "
            "another --resolution"
        )
    return height


def _attended(
    role: str, asked: Sequence[int] | None, image_shape: tuple[int, int, int], sides: Sequence[int]
) -> Collection[int]:
    chosen = _ATTENTION.get(image_shape[1], (64,)) if asked is None else asked
    missing = [side for side in chosen if side not in sides]
    if missing:
        raise SpiderUsageError(
            f"{role}.attention={[*chosen]}: there is no map of {missing[0]} px; there are "
            f"{', '.join(map(str, sorted({*sides})))} px"
        )
    return chosen
