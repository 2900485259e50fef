"""Non-saturating logistic (Goodfellow et al. 2014, section 3; StyleGAN's): the generator maximises log sigmoid(D)."""

from torch import Tensor
from torch.nn.functional import softplus


class NonSaturating:
    """See Objective."""

    def d_real(self, logits: Tensor) -> Tensor:
        return softplus(-logits)

    def d_fake(self, logits: Tensor) -> Tensor:
        return softplus(logits)

    def g_fake(self, logits: Tensor) -> Tensor:
        return softplus(-logits)
