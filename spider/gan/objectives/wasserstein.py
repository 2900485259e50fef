"""Wasserstein (Arjovsky et al. 2017): the difference of means. The discriminator needs a penalty to stay bounded."""

from torch import Tensor

from spider.gan.objectives.objective import Separable


class Wasserstein(Separable):
    """See Separable."""

    even = True

    def d_real(self, logits: Tensor) -> Tensor:
        return -logits

    def d_fake(self, logits: Tensor) -> Tensor:
        return logits

    def g_fake(self, logits: Tensor) -> Tensor:
        return -logits
