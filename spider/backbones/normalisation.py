"""Images as a pretrained network takes them: from 0 to 1, less a mean, over a standard deviation of each channel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """float [N, C, H, W], 0 to 1 -> [N, C, H, W], less the mean, over the standard deviation.

    Attributes:
        mean, std: of each channel; three make three of a grey one. Or one of all.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """See the class."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std

    def of_signed(self, images: Tensor) -> Tensor:
        """The same of images from -1 to 1, as generators make them."""
        return self((images + 1) / 2)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
