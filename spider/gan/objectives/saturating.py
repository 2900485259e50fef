"""Saturating logistic (Goodfellow et al. 2014, equation 1): the generator minimises log(1 - sigmoid(D))."""

from torch import Tensor
from torch.nn.functional import softplus

from spider.gan.objectives.objective import Separable


class Saturating(Separable):
    """See Separable."""

    def d_real(self, logits: Tensor) -> Tensor:
        return softplus(-logits)

    def d_fake(self, logits: Tensor) -> Tensor:
        return softplus(logits)

    def g_fake(self, logits: Tensor) -> Tensor:
        return -softplus(logits)
