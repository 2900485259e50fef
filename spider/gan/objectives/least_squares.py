"""Least squares (Mao et al. 2017, equation 9): labels 1 for real, 0 for generated, and half the square."""

from torch import Tensor

from spider.gan.objectives.objective import Separable


class LeastSquares(Separable):
    """See Separable."""

    def d_real(self, logits: Tensor) -> Tensor:
        return (logits - 1).square() / 2

    def d_fake(self, logits: Tensor) -> Tensor:
        return logits.square() / 2

    def g_fake(self, logits: Tensor) -> Tensor:
        return (logits - 1).square() / 2
