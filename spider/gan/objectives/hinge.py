"""Hinge (Lim and Ye 2017; SNGAN, BigGAN): the discriminator pays only within a margin of 1."""

from torch import Tensor

from spider.gan.objectives.objective import Separable


class Hinge(Separable):
    """See Separable."""

    def d_real(self, logits: Tensor) -> Tensor:
        return (1 - logits).relu()

    def d_fake(self, logits: Tensor) -> Tensor:
        return (1 + logits).relu()

    def g_fake(self, logits: Tensor) -> Tensor:
        return -logits
