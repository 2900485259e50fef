"""FastGAN's reconstructions (Liu et al. 2021): decoders draw real images from D's maps, which so tell what they see.

    trunk [N, c, 8, 8]    -> the whole image            small [N, c, 8, 8] -> the whole image
    inner [N, c, 16, 16], one of its quarters           -> that quarter of the image

Images are those that D saw, augmented ones, resized to the decoders' (nearest pixel). Decoders and terms are those of
the public implementation (odegeasslbc/FastGAN-pytorch, models.py and train.py), for 256 px and more. What differs: the
quarter is drawn for each image, and there for a batch; below 128 px decoders end at the image's side; the distance is
one that is at hand, and there LPIPS[vgg]. There each term is summed over a batch of 8 beside means of logits, so our
means weigh 8 times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spider.backbones.perceptual import perceptual_distance
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.auxiliary import Auxiliary, Role, Seen
from spider.gan.auxiliary.config import ReconstructionConfig
from spider.gan.loss import Loss
from spider.gan.method import Kept, Method

_LARGEST = 128  # px, at which decoders end at most


class Reconstruction(Auxiliary):
    """See Auxiliary, and the module."""

    def __init__(
        self,
        config: ReconstructionConfig,
        discriminator: nn.Module,
        image_shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        """Raises SpiderUsageError: the discriminator brings no decoders. SpiderError: the distance's weights."""
        brought: Callable[[int, int], nn.Module] | None = getattr(discriminator, "decoders", None)
        if brought is None:
            raise SpiderUsageError(
                f"auxiliary: kind=reconstruction draws from D's maps, and {type(discriminator).__name__} brings no "
                "decoders: use discriminator.kind=fastgan, or a network with decoders(channels, side)"
            )
        self.side = min(_LARGEST, image_shape[1])
        self.decoders = brought(config.channels, self.side)
        self.distance: Callable[[Tensor, Tensor], Tensor] = _pixels
        if config.distance != "pixels":
            self.distance = perceptual_distance(config.distance, None, device)

    def parts(self) -> Mapping[Role, nn.Module]:
        """See Auxiliary."""
        return {"discriminator": self.decoders}

    def discriminator(self, real: Seen, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        seen, maps = real.augmented, real.out.features
        quarter = (draws.uniform("quarter", ()) * 4).long().to(seen.device)
        inner = _quarters(maps["inner"], quarter)
        drawn: Mapping[str, Tensor] = self.decoders({"trunk": maps["trunk"], "small": maps["small"], "inner": inner})
        return Loss(
            {
                "whole": self._far(drawn["trunk"], seen),
                "small": self._far(drawn["small"], seen),
                "quarter": self._far(drawn["inner"], _quarters(seen, quarter)),
            }
        )

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method."""
        if isinstance(self.decoders, Method):
            self.decoders.stepped(phase, kept)

    def touched(self) -> Sequence[Tensor]:
        """See Method."""
        return self.decoders.touched() if isinstance(self.decoders, Method) else ()

    def _far(self, drawn: Tensor, images: Tensor) -> Tensor:
        """[N], of images [N, C, h, w] that are resized."""
        target = interpolate(images.detach(), (self.side, self.side), mode="nearest")
        return self.distance(drawn.float(), target.float())


def _quarters(x: Tensor, which: Tensor) -> Tensor:
    """[N, C, 2 h, 2 w] -> [N, C, h, w]: of each the upper left, upper right, lower left or lower right quarter."""
    n, c, height, width = x.shape
    parts = x.view(n, c, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [N, 4, C, h, w]
    return parts[torch.arange(n, device=x.device), which]


def _pixels(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared difference of each pair, [N]."""
    return (a - b).square().mean((1, 2, 3))
