"""A vision transformer as a backbone of four maps: each of another size, by frozen layers of random weights.

    images --a quarter of the blocks each--> patches after each, [N, width, h, w]
    --1x1--> width / 8 --transposed 4x4, stride 4--> [N, width / 8, 4 h, 4 w]
    --1x1--> width / 4 --transposed 2x2, stride 2--> [N, width / 4, 2 h, 2 w]
    --1x1--> width / 2 ----------------------------> [N, width / 2, h, w]
    --1x1--> width ------3x3, stride 2-------------> [N, width, h / 2, w / 2]

Patches of 16 pixels so give maps of 1/4, 1/8, 1/16 and 1/32 of the side, as convolutional networks have. Layers,
channels and outputs are those of autonomousvision/stylegan-xl, feature_networks/vit.py. The random weights are drawn by
the run's seed and saved with the run, as those of the mixing are; of the transformer a checkpoint holds the digest.
"""

from __future__ import annotations

from torch import Tensor, nn

from spider.backbones.deit import quarters
from spider.backbones.vit import VisionTransformer


class Reassembled(nn.Module):
    """See the module.

    Attributes:
        channels: of the four maps.
        side: of the images that the transformer's positions are for, in pixels.
    """

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        width = network.width
        self.network = network
        self.channels = (width // 8, width // 4, width // 2, width)
        self.side = network.grid * network.patch
        self.narrow = nn.ModuleList(nn.Conv2d(width, out, 1) for out in self.channels)
        quarter, half, _, whole = self.channels
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(quarter, quarter, 4, 4),
                nn.ConvTranspose2d(half, half, 2, 2),
                nn.Identity(),
                nn.Conv2d(whole, whole, 3, 2, 1),
            ]
        )
        self.requires_grad_(False)

    def stages(self, images: Tensor) -> list[Tensor]:
        """float [N, 3, side, side], as the transformer takes it -> maps of 1/4, 1/8, 1/16 and 1/32 of the side."""
        maps = self.network.maps(images, quarters(self.network))
        return [resize(narrow(each)) for narrow, resize, each in zip(self.narrow, self.resize, maps, strict=True)]
