"""What every objective is.

Values have the shape of the logits, [N, P]. Their means are the players' losses. High logits are real.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from spider.gan.outputs import DOut


class Objective(Protocol):
    """The adversarial losses of both players.

    Attributes:
        paired: whether the generator's loss needs real images too.
    """

    paired: bool

    def discriminator(self, real: DOut, fake: DOut) -> dict[str, Tensor]:
        """What the discriminator pays for real and generated images, by name. Its loss is the sum of their means."""

    def generator(self, fake: DOut, real: DOut | None) -> Tensor:
        """What the generator pays for its images. `real` is given if the objective is paired."""

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """How real D finds the real and the generated images, [N, P] each: above 0 rather real, below rather generated.

        A constant added to D may not change it where D has no absolute scale.
        """

    def score(self, fake: DOut) -> Tensor:
        """By what generated images are ranked, [N, P]: the most real one is the highest."""


class Separable(ABC):
    """An objective that judges each image alone. A subclass gives three functions of logits."""

    paired = False

    @abstractmethod
    def d_real(self, logits: Tensor) -> Tensor:
        """What the discriminator pays for its logits of real images."""

    @abstractmethod
    def d_fake(self, logits: Tensor) -> Tensor:
        """What the discriminator pays for its logits of generated images."""

    @abstractmethod
    def g_fake(self, logits: Tensor) -> Tensor:
        """What the generator pays for the discriminator's logits of its images."""

    def discriminator(self, real: DOut, fake: DOut) -> dict[str, Tensor]:
        """See Objective."""
        return {"d_real": self.d_real(real.logits), "d_fake": self.d_fake(fake.logits)}

    def generator(self, fake: DOut, real: DOut | None) -> Tensor:
        """See Objective."""
        return self.g_fake(fake.logits)

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """See Objective: 0 is the boundary of D."""
        return real.logits, fake.logits

    def score(self, fake: DOut) -> Tensor:
        """See Objective."""
        return fake.logits
