"""What every objective is.

Values have the shape of the logits, [N, P]. Their means over the global batch are the players' losses; values that do
not weigh alike bring their weights (`spider.gan.loss.Weighed`). High logits are real.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from spider.draws import Address
from spider.gan.loss import Loss
from spider.gan.outputs import DOut


class Objective(Protocol):
    """The adversarial losses of both players. Both may run twice on the same images, so they change nothing.

    An objective that remembers, or that projects a weight of D, is a `spider.gan.method.Method` as well. What its
    losses keep reaches `stepped`.

    `draws` gives random numbers of the images, such as a margin for each logit: `draws.uniform("margin.real", (P,))`.

    Attributes:
        paired: whether the generator's loss needs real images too.
    """

    paired: bool

    def discriminator(self, real: DOut, fake: DOut, draws: Address) -> Loss:
        """What the discriminator pays for real and generated images."""

    def generator(self, fake: DOut, real: DOut | None, draws: Address) -> Loss:
        """What the generator pays for its images. `real` is given if the objective is paired.

        The selection may leave out images of all its terms.
        """

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """How real D finds the real and the generated images, [N, P] each: above 0 rather real, below rather generated.

        A constant added to D may not change it where D has no absolute scale.
        """

    def score(self, fake: DOut) -> Tensor:
        """By what generated images are ranked, [N, P]: the most real one is the highest."""


class Separable(ABC):
    """An objective that judges each image alone. A subclass gives three functions of logits.

    Attributes:
        even: whether `g_fake` has the same slope everywhere.
    """

    paired = False
    even = False

    @abstractmethod
    def d_real(self, logits: Tensor) -> Tensor:
        """What the discriminator pays for its logits of real images."""

    @abstractmethod
    def d_fake(self, logits: Tensor) -> Tensor:
        """What the discriminator pays for its logits of generated images."""

    @abstractmethod
    def g_fake(self, logits: Tensor) -> Tensor:
        """What the generator pays for the discriminator's logits of its images."""

    def discriminator(self, real: DOut, fake: DOut, draws: Address) -> Loss:
        """See Objective."""
        return Loss({"d_real": self.d_real(real.logits), "d_fake": self.d_fake(fake.logits)})

    def generator(self, fake: DOut, real: DOut | None, draws: Address) -> Loss:
        """See Objective."""
        return Loss({"g": self.g_fake(fake.logits)})

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """See Objective: 0 is the boundary of D, unless a subclass says otherwise."""
        return real.logits, fake.logits

    def score(self, fake: DOut) -> Tensor:
        """See Objective."""
        return fake.logits
