"""What every auxiliary is: terms beside the adversarial ones, with the modules and the memory that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from spider.draws import Address
from spider.gan.loss import Loss
from spider.gan.method import Method
from spider.gan.outputs import Condition, DOut

Role = Literal["generator", "discriminator"]


@dataclass(frozen=True)
class Seen:
    """Images of a micro-batch that the discriminator has judged, and its judgement: in float32 at least.

    Attributes:
        images: [n, C, H, W], -1 to 1, before augmentation.
        augmented: what the network saw of them, [n, C, H, W]. Gradients flow through it to `images`.
        condition: theirs.
        out: the judgement, with the features that the network tells (`DOut.features`).
        again: judges the same images again for a use of that name, whose draws augment them differently.
    """

    images: Tensor
    augmented: Tensor
    condition: Condition
    out: DOut
    again: Callable[[str], DOut]


class Auxiliary(Method):
    """Joins the main losses of the players, whatever the selection picks. By default it adds nothing.

    Both functions may run twice on the same images, so they change nothing; what moves, moves in `stepped`.
    """

    def parts(self) -> Mapping[Role, nn.Module]:
        """Modules that train with a player, by player."""
        return {}

    def discriminator(self, real: Seen, fake: Seen, draws: Address) -> Loss:
        """What joins the discriminator's loss."""
        return Loss()

    def generator(self, fake: Seen, draws: Address) -> Loss:
        """What joins the generator's loss. Gradients flow through `fake.images`."""
        return Loss()
