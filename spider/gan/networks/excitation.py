"""FastGAN's skip-layer excitation (Liu et al. 2021, section 3.1): channels of one map, weighed by another map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, sigmoid, silu

from spider.gan.networks.spectral import SpectralConv

_PLACES = 4  # of a side, to which the other map is averaged


class Gate(nn.Module):
    """A square map [N, c, h, h], h a multiple of 4 -> factors of the channels of another one, [N, C, 1, 1]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = SpectralConv(inputs, outputs, _PLACES)
        self.leave = SpectralConv(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return sigmoid(self.leave(silu(self.enter(averaged(x, _PLACES)))))


def averaged(x: Tensor, places: int) -> Tensor:
    """[N, c, h, h] -> [N, c, places, places], of which h is a multiple.

    The values are those of adaptive_avg_pool2d, whose gradients are not deterministic on a GPU.
    """
    return avg_pool2d(x, x.shape[-1] // places)
