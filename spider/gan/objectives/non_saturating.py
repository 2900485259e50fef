"""Non-saturating logistic (Goodfellow et al. 2014, section 3; StyleGAN's): the generator maximises log sigmoid(D)."""

from torch import Tensor
from torch.nn.functional import softplus

from spider.gan.objectives.objective import Separable


class NonSaturating(Separable):
    """See Separable."""

    def d_real(self, logits: Tensor) -> Tensor:
        return softplus(-logits)

    def d_fake(self, logits: Tensor) -> Tensor:
        return softplus(logits)

    def g_fake(self, logits: Tensor) -> Tensor:
        return softplus(-logits)
