"""Frozen layers of random weights between a pretrained network's maps and the heads that judge them, and their noise.

    maps of 1/4, 1/8, 1/16, 1/32 of the side
    --1x1 convolutions--> 64, 128, 256, 512 channels                                             (mixing of channels)
    --from the smallest on: 1x1, twice the size, added to the next larger one--> 4 maps            (mixing of scales)

The layers are those of Projected GAN (Sauer et al. 2021, autonomousvision/projected_gan, pg_modules/projector.py), the
noise is that of Diffusion-Projected GAN (Wang et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate


class Mixing(nn.Module):
    """Maps of a pretrained network, from the largest to the smallest -> maps of twice their sizes, [N, C, 2 h, 2 w].

    Attributes:
        channels: of its maps.
    """

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        wide = [channels << level for level in range(len(inputs))]
        self.channels = [max(channels, each // 2) for each in wide]
        self.of_channels = nn.ModuleList(nn.Conv2d(n, out, 1) for n, out in zip(inputs, wide, strict=True))
        self.of_scales = nn.ModuleList(nn.Conv2d(n, out, 1) for n, out in zip(wide, self.channels, strict=True))
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """See the class."""
        return self.scales([mix(each) for mix, each in zip(self.of_channels, maps, strict=True)])

    def scales(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of maps whose channels are mixed."""
        mixed: list[Tensor] = []
        for mix, each in zip(reversed(self.of_scales), reversed(maps), strict=True):
            whole = each if not mixed else each + mixed[0]
            # The public code mixes what it has enlarged: the same, as weights of pixels add up to 1, of 4 times as many
            mixed.insert(0, interpolate(mix(whole), scale_factor=2, mode="bilinear", align_corners=True))
        return mixed


def noisy(maps: Sequence[Tensor], shares: Tensor, noise: Sequence[Tensor], std: float) -> list[Tensor]:
    """sqrt(1 - v) x + sqrt(v) std n of each channel x of each image's maps.

    Args:
        shares: v, [N, at least as many as the maps have channels], in their order.
        noise: n, standard normal, as many numbers as each map has.
    """
    found, used = [], 0
    for x, n in zip(maps, noise, strict=True):
        v = shares[:, used : used + x.shape[1], None, None].to(x.dtype)
        found.append((1 - v).sqrt() * x + v.sqrt() * std * n.view(x.shape).to(x.dtype))
        used += x.shape[1]
    return found
