"""Settings of R3GAN's networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from spider.gan.networks.config import (
    NetworkChoice,
    doubling_sides,
)
from spider.settings.section import MAX_DIM, MAX_WIDTH

if TYPE_CHECKING:
    pass


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
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})

    def plan(
        self, image_shape: tuple[int, int, int], role: Literal["generator", "discriminator"]
    ) -> tuple[list[int], list[int]]:
        """Channels and groups at 4 px, 8 px, ..., up to the images' side.

        Args:
            role: of the network, which an error names.

        Raises:
            SpiderUsageError: the images' side is not 4 px times a power of 2.
        """
        levels = range(len(doubling_sides(f"{role}.kind={self.kind}", image_shape)))
        groups = [max(1, round(96 * self.width / (1 << max(0, level - 3)))) for level in levels]
        return [8 * group for group in groups], groups
