"""Mirror images with probability 1/2, of real and of generated images."""

from __future__ import annotations

from torch import Tensor

from spider.draws import Address
from spider.gan.augment.augmentation import Augmentation


class Mirror(Augmentation):
    """See Augmentation."""

    def __call__(self, images: Tensor, draws: Address, use: str) -> Tensor:
        """See Augmentation."""
        is_mirrored = draws.uniform(f"{use}.mirror", ()) < 0.5
        return images.flip(3).where(is_mirrored.view(-1, 1, 1, 1), images)
