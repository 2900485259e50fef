"""Wasserstein (Arjovsky et al. 2017): the difference of means. The discriminator needs a penalty to stay bounded."""

from torch import Tensor

from spider.gan.objectives.objective import Separable
from spider.gan.outputs import DOut


class Wasserstein(Separable):
    """See Separable."""

    even = True

    def d_real(self, logits: Tensor) -> Tensor:
        return -logits

    def d_fake(self, logits: Tensor) -> Tensor:
        return logits

    def g_fake(self, logits: Tensor) -> Tensor:
        return -logits

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """See Objective: by how much an image is more real than its partner, for D has no absolute scale."""
        margin = real.logits - fake.logits
        return margin, -margin
