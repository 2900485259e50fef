"""What the settings of every generator and discriminator have in common: the base class, and refusals of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from spider.errors import SpiderUsageError
from spider.settings.choices import Choice

if TYPE_CHECKING:
    from torch import nn

    from cluster.world import World
    from spider.config.schema import Config
    from spider.gan.outputs import ConditionShape


class NetworkChoice(Choice):
    """The settings of a generator, of a discriminator, or of both."""

    conditions: ClassVar[frozenset[str]] = frozenset()  # what it can be told: kinds of conditions, besides none
    takes_images: ClassVar[bool] = True  # as a generator; or vectors only
    # What `--init RUN` leaves as the training says: keys that say how it trains, and not which weights there are
    of_training: ClassVar[frozenset[str]] = frozenset()
    shrunk_by: ClassVar[tuple[str, ...]] = ()  # keys that make it smaller: it takes less memory and time
    has_latents: ClassVar[bool] = False  # whether the generator returns GOut(latents=[N, L, D]), a w for each layer

    # Of a discriminator of this package, so that an auxiliary that it cannot serve is refused before anything is built
    tells_map: ClassVar[bool] = False  # its last map, as InsGen's heads need: `map_features`, features["map"]
    brings_decoders: ClassVar[bool] = False  # which draw images from its maps: `decoders`

    @property
    def looks_through(self) -> frozenset[str]:
        """The embeddings that judge by a network which a discriminator looks through."""
        return frozenset()

    @property
    def chained(self) -> bool:
        """Whether a discriminator of this package has layers of CHAIN, whose p auxiliary: kind=chain steers."""
        return False

    def smaller_by(self) -> tuple[str, ...]:
        """The keys that make this very network smaller."""
        return self.shrunk_by

    def left_by_init(self) -> frozenset[str]:
        """The keys that `--init RUN` leaves as the training says, of the network that RUN has."""
        return self.of_training

    @property
    def grows(self) -> bool:
        """Whether it begins with the weights of a smaller generator, so that a part of it is random at first."""
        return False

    @property
    def last_sides(self) -> tuple[int, int] | None:
        """Of one that grows by stages: the sides in px of the images that it grows from, and of those that it makes."""
        return None

    def require_beginning(self, init: str, side_of: Callable[[], int | None]) -> None:
        """Refuse weights that cannot be the beginning of such a network; by default any can.

        Args:
            init: names them.
            side_of: the side in px of the images of the run that they are of; None: they are of no run.

        Raises SpiderUsageError.
        """

    def unlike_stem(self, stem: NetworkChoice, *, classes: bool) -> Iterator[tuple[str, Any, Any]]:
        """Keys by which a given stem has other layers than this network has for it, with the value here and its own.

        Args:
            stem: the settings of the network that the weights are of.
            classes: whether it is told classes.
        """
        return iter(())

    def require_images(self, image_shape: tuple[int, int, int]) -> None:
        """Refuse images [C, H, W] that such a network cannot make or judge, before any is built; by default none is.

        Raises SpiderUsageError.
        """

    @property
    def reads(self) -> Mapping[str, str]:
        """By key, whose published weights are read where no file is named: those of a reader in `spider.published`."""
        return {}

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


class BatchNormedChoice(NetworkChoice):
    """The settings of a network with batch normalisation, which says over which images that is."""

    statistics: Literal["batch", "micro_batch"] = Field(
        "batch",
        description="what batch normalisation is over: batch = the global batch, which goes with accumulation=1; "
        "micro_batch = the micro-batch of all ranks, as published runs accumulate: what is computed then follows from "
        "the accumulation, and from the number of ranks",
    )
    of_training: ClassVar[frozenset[str]] = frozenset({"statistics"})

    def split_refusals(self, role: str, config: Config) -> Iterator[str]:
        """Why such a network cannot go with the rest: micro-batches split what it normalises over."""
        if self.statistics == "batch" and config.accumulation > 1:
            yield (
                f"{role}.kind={self.kind} normalises over the global batch, which accumulation={config.accumulation} "
                f"splits: set accumulation=1, or {role}.statistics=micro_batch"
            )


def untold_refusals(key: str, config: Config) -> Iterator[str]:
    """Why a discriminator cannot heed the time: nothing tells it. `key`: that which makes it heed the time."""
    what = config.discriminator.heeds_time
    if what is not None and not any(getattr(each, "into", what) == what for each in config.augment if _tells(each)):
        yield f"discriminator.{key} heeds what augment: kind=diffusion into={what} tells: add that"


def _tells(augmentation: Choice) -> bool:
    """Whether an augmentation tells the time; one from outside of this package may."""
    return augmentation.kind == "diffusion" or ":" in augmentation.kind


def halving_sizes(choice: str, image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Heights and widths, each twice the one before, up to the images'.

    Args:
        choice: what asks for them, such as `generator.kind=stylegan2`.

    Raises SpiderUsageError.
    """
    _, height, width = image_shape
    shorter = min(height, width)
    levels = max(0, shorter.bit_length() - 3)  # 4 to 7 px are left of the shorter side
    if shorter < 4 or (height | width) & ((1 << levels) - 1):
        raise SpiderUsageError(
            f"{choice} is for images whose sides halve down together until the shorter one is 4 to 7 px, such as "
            f"64x64, 96x96 or 512x256, found {width}x{height}: pack the data at another --resolution"
        )
    return [(height >> level, width >> level) for level in reversed(range(levels + 1))]


def doubling_sides(choice: str, image_shape: tuple[int, int, int]) -> list[int]:
    """4, 8, 16, ... up to the images' side in pixels. Arguments and errors as above."""
    _, height, width = image_shape
    sides = [4 << level for level in range(max(1, height.bit_length() - 2))]
    if (height, width) != (sides[-1], sides[-1]):
        raise SpiderUsageError(
            f"{choice} is for squares of 4, 8, 16, ... px, found {width}x{height}: "
            "pack the data at another --resolution"
        )
    return sides
