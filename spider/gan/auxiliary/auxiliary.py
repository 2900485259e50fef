"""What every auxiliary is: terms beside the adversarial ones, with the modules and the memory that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
        use: what for, within the phase.
        images: [n, C, H, W], -1 to 1, before augmentation.
        augmented: what the network saw of them, [n, C, H, W]. Gradients flow through it to `images`.
        condition: theirs.
        out: the judgement, with the features that the network tells (`DOut.features`).
        remade: of generated images, what the generator makes of a changed source, `remade(lambda source: source + e)`:
            images [n, C, H, W] of a source [n, ...], by the same draws. Gradients flow to the player whose turn it is,
            unless `torch.no_grad` stops them. None of real images.
    """

    use: str
    images: Tensor
    augmented: Tensor
    condition: Condition
    out: DOut
    judge: Callable[[str, Tensor, Condition, nn.Module | None], Seen]  # for a use, images of conditions
    remade: Callable[[Callable[[Tensor], Tensor]], Tensor] | None = None

    def again(self, use: str, images: Tensor | None = None, network: nn.Module | None = None) -> DOut:
        """Another judgement, in float32 at least.

        Args:
            use: names it: the draws by which images are augmented are others than for any other use.
            images: like those that were judged, of the same conditions; None: these.
            network: in the place of the discriminator, such as an average of it that the auxiliary brings as a part.
        """
        condition = self.condition
        if images is None:
            images = self.images
        else:
            condition = replace(condition, sizes={})  # which the generator gave for its own images
        return self.judge(f"{self.use}.{use}", images, condition, network).out


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
