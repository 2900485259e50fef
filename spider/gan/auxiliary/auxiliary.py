"""What every auxiliary is: terms beside the adversarial ones, with the modules and the memory that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from spider.draws import Address
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


@dataclass(frozen=True)
class Extra:
    """What an auxiliary adds to a loss.

    Attributes:
        terms: values to minimise, [n] or [n, P], by name. Their means over the global batch are added, whatever the
            selection picks.
        keep: values of each image, [n, ...], by name: what `Method.stepped` gets of the global batch.
    """

    terms: Mapping[str, Tensor] = field(default_factory=dict)
    keep: Mapping[str, Tensor] = field(default_factory=dict)


class Auxiliary(Method):
    """Joins the main losses of the players. By default it adds nothing.

    Both functions may run twice on the same images, so they change nothing; what moves, moves in `stepped`.
    """

    def parts(self) -> Mapping[Role, nn.Module]:
        """Modules that train with a player, by player."""
        return {}

    def discriminator(self, real: Seen, fake: Seen, draws: Address) -> Extra:
        """What joins the discriminator's loss."""
        return Extra()

    def generator(self, fake: Seen, draws: Address) -> Extra:
        """What joins the generator's loss. Gradients flow through `fake.images`."""
        return Extra()
