"""APA, adaptive pseudo augmentation (Jiang et al. 2021): some real images are replaced by generated ones.

A discriminator that has learnt the few real images by heart is deceived with probability p, which grows with
overfitting. The rule of p is ADA's, by the signs of D for what it is shown as real, as the authors' DeceiveD has it.

DeceiveD takes the generator's last batch, which it keeps; here it is the batch of the same phase, so that nothing needs
to be kept over a checkpoint or given to the right micro-batch. The expected gradient is the same.
"""

from __future__ import annotations

from torch import Tensor

from spider.draws import Address
from spider.gan.augment.config import ApaConfig
from spider.gan.augment.steered import Steered


class Apa(Steered):
    """See Augmentation."""

    column = "augment/apa_p"
    swaps = True

    def __init__(self, config: ApaConfig, batch: int) -> None:
        super().__init__(config.p, config.control, batch)

    def reals(self, real: Tensor, fake: Tensor, draws: Address) -> Tensor:
        """See Augmentation."""
        return real if self.p <= 0 else swapped(real, fake, draws.uniform("apa", ()), self.p)


def swapped(real: Tensor, fake: Tensor, u: Tensor, p: float) -> Tensor:
    """Real images [N, C, H, W], and generated ones where `u`, [N], is below p."""
    return fake.where((u < p).view(-1, 1, 1, 1), real)
