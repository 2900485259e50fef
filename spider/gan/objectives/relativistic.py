"""Relativistic pairs with the logistic loss (Jolicoeur-Martineau 2018; R3GAN, Huang et al. 2024, equation 2).

D says by how much a real image is more real than a generated one; the generator wants the opposite:

    D: softplus(-(D(x) - D(G(z))))      G: softplus(-(D(G(z)) - D(x)))

Image n of the reals is paired with image n of the generated ones. D has no absolute scale.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from spider.draws import Address
from spider.gan.loss import Loss
from spider.gan.outputs import DOut


class Relativistic:
    """See Objective."""

    paired = True

    def discriminator(self, real: DOut, fake: DOut, draws: Address) -> Loss:
        """See Objective."""
        return Loss({"d": softplus(fake.logits - real.logits)})

    def generator(self, fake: DOut, real: DOut | None, draws: Address) -> Loss:
        """See Objective."""
        if real is None:
            raise ValueError("the relativistic objective needs real images in the generator's step")
        return Loss({"g": softplus(real.logits - fake.logits)})

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """See Objective: by how much an image is more real than its partner."""
        margin = real.logits - fake.logits
        return margin, -margin

    def score(self, fake: DOut) -> Tensor:
        """See Objective. A constant added to D moves all scores alike."""
        return fake.logits
