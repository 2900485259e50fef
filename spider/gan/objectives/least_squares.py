"""Least squares (Mao et al. 2017, equation 9), and what a sliced discriminator has in its place."""

from torch import Tensor
from torch.nn.functional import softplus

from spider.gan.objectives.objective import Separable
from spider.gan.outputs import DOut


class _Labelled(Separable):
    """See Separable: labels 1 for real, 0 for generated."""

    def realness(self, real: DOut, fake: DOut) -> tuple[Tensor, Tensor]:
        """See Objective: the boundary lies between the labels."""
        return real.logits - 0.5, fake.logits - 0.5


class LeastSquares(_Labelled):
    """See Separable: labels 1 for real, 0 for generated, and half the square."""

    def d_real(self, logits: Tensor) -> Tensor:
        return (logits - 1).square() / 2

    def d_fake(self, logits: Tensor) -> Tensor:
        return logits.square() / 2

    def g_fake(self, logits: Tensor) -> Tensor:
        return (logits - 1).square() / 2


class SoftplusLeastSquares(_Labelled):
    """See Separable: the squares of softplus(1 - D) and softplus(D), as BigVSAN has them (sony/bigvsan, models.py).

    The generator's loss falls everywhere, which SAN's loss of the direction needs.
    """

    def d_real(self, logits: Tensor) -> Tensor:
        return softplus(1 - logits).square()

    def d_fake(self, logits: Tensor) -> Tensor:
        return softplus(logits).square()

    def g_fake(self, logits: Tensor) -> Tensor:
        return softplus(1 - logits).square()
