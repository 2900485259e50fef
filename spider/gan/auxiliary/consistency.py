"""Balanced consistency regularisation (bCR; Zhao et al. 2021, "Improved Consistency Regularization for GANs").

    10 (D(x) - D(T(x)))^2 of real images x, and the same of generated ones;   T: mirrored or not, and shifted

Weights are the authors', and those of NVlabs/stylegan2-ada (--cmethod=bcr), from which the shift is: by whole pixels,
up to 1/32 of the side. Pixels that come in are zeros, and there reflections. Both views go through `augment` as all
images do, by draws of their own; without it D judges x as it is, as published.
"""

from __future__ import annotations

from torch import Tensor

from spider.draws import Address
from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.config import DiffAugmentConfig
from spider.gan.augment.diffaugment import DiffAugment
from spider.gan.augment.mirror import Mirror
from spider.gan.auxiliary.auxiliary import Auxiliary, Seen
from spider.gan.auxiliary.config import ConsistencyConfig
from spider.gan.loss import Loss, by_judgement


class Consistency(Auxiliary):
    """See Auxiliary, and the module."""

    def __init__(self, config: ConsistencyConfig) -> None:
        self.config = config
        shift = DiffAugment(DiffAugmentConfig(policy=("translation",), translation=config.translation))
        self._changes: list[Augmentation] = [Mirror(), shift] if config.mirror else [shift]

    def discriminator(self, real: Seen, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        weights = {"real": self.config.real_weight, "fake": self.config.fake_weight}
        seen = {"real": real, "fake": fake}
        return Loss({name: weight * self._apart(seen[name], draws) for name, weight in weights.items() if weight})

    def _apart(self, seen: Seen, draws: Address) -> Tensor:
        """(D(x) - D(T(x)))^2, [n, P]."""
        images = seen.images
        for change in self._changes:
            images = change(images, draws, f"bcr.{seen.use}")  # `again` augments as "real.bcr", by other draws
        apart = (seen.out.logits - seen.again("bcr", images).logits).square()
        return by_judgement(apart, seen.out.weights)
