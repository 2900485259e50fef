"""What every augmentation is: of images on their way to the discriminator, or of the set that it takes for real."""

from __future__ import annotations

from torch import Tensor

from spider.draws import Address
from spider.gan.method import Method
from spider.gan.outputs import Condition


class Augmentation(Method):
    """Changes images, differentiably as often as asked for. By default it changes nothing.

    Attributes:
        swaps: whether `reals` puts generated images among the real ones. The discriminator's phases then make them.
    """

    swaps = False

    def __call__(self, images: Tensor, draws: Address, use: str) -> Tensor:
        """Images [N, C, H, W], about -1 to 1, to images of the same shape.

        Args:
            draws: of these images.
            use: names the images' use within the phase: two uses of one phase draw different numbers.
        """
        return images

    def told(self, condition: Condition, draws: Address, use: str) -> Condition:
        """What the discriminator is told of images that are changed so: how far, for one that must know (`time`).

        Args:
            condition: what it would be told of the images before.
            draws, use: as above: what is asked for twice is the same.
        """
        return condition

    def reals(self, real: Tensor, fake: Tensor, draws: Address) -> Tensor:
        """What the discriminator of a phase takes for real images, before anything else is done to them.

        Args:
            real, fake: [N, C, H, W], the real images of the phase and its generated ones.
            draws: of these images.
        """
        return real
