"""Hinge (Lim and Ye 2017; SNGAN, BigGAN): the discriminator pays only within a margin of 1.

FastGAN (Liu et al. 2021) draws the margin of each logit evenly from 0.8 to 1.
"""

from torch import Tensor

from spider.draws import Address
from spider.gan.loss import Loss
from spider.gan.objectives.objective import Separable
from spider.gan.outputs import DOut


class Hinge(Separable):
    """See Separable.

    Args:
        margin_from: the least margin; 1: all are 1.
    """

    even = True

    def __init__(self, margin_from: float = 1.0) -> None:
        self.margin_from = margin_from

    def discriminator(self, real: DOut, fake: DOut, draws: Address) -> Loss:
        """See Objective."""
        if self.margin_from == 1:
            return super().discriminator(real, fake, draws)
        margins = [self._margins(draws, use, out.logits) for use, out in (("real", real), ("fake", fake))]
        return Loss({"d_real": (margins[0] - real.logits).relu(), "d_fake": (margins[1] + fake.logits).relu()})

    def d_real(self, logits: Tensor) -> Tensor:
        return (1 - logits).relu()

    def d_fake(self, logits: Tensor) -> Tensor:
        return (1 + logits).relu()

    def g_fake(self, logits: Tensor) -> Tensor:
        return -logits

    def _margins(self, draws: Address, use: str, logits: Tensor) -> Tensor:
        drawn = draws.uniform(f"margin.{use}", logits.shape[1:]).to(logits.dtype)
        return self.margin_from + (1 - self.margin_from) * drawn
