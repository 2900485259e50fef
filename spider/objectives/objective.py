"""What every objective is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """The values whose means are the players' losses. Logits: any shape, high is real; values: the same shape."""

    def d_real(self, logits: Tensor) -> Tensor:
        """What the discriminator pays for its logits of real images."""

    def d_fake(self, logits: Tensor) -> Tensor:
        """What the discriminator pays for its logits of generated images."""

    def g_fake(self, logits: Tensor) -> Tensor:
        """What the generator pays for the discriminator's logits of its images."""
