"""Filters and the nonlinearity of StyleGAN3 (Karras et al. 2021, sections 3.2 and 3.3), which make no aliases.

A leaky ReLU makes frequencies that pixels cannot show. So it is applied at a higher rate: its input is upsampled, and
its output is low-pass filtered before pixels are left out. Filters are those of the public implementation
(NVlabs/stylegan3, training/networks_stylegan3.py), whose results these are. Rates and frequencies are per side of the
final image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from spider.gan.networks.equalized import activated
from spider.gan.networks.resample import gather, spread
from spider.precision import at_least_float32, without_autocast

TAPS = 6  # of a filter, for each pixel of its lower rate


def lowpass(taps: int, cutoff: float, half_width: float, rate: float, *, radial: bool = False) -> Tensor:
    """A low-pass filter of sum 1 by Kaiser's window, symmetric: float32 [taps], or [taps, taps] if it is radial.

    Args:
        taps: an even number.
        cutoff: the frequency at which it passes half.
        half_width: from there to where it stops.
        rate: pixels that it acts on.
        radial: the same in all directions; else it acts on rows and then on columns.
    """
    from scipy.signal import firwin, kaiser_atten, kaiser_beta  # slow to import, and only StyleGAN3 needs it
    from scipy.signal.windows import kaiser
    from scipy.special import j1

    if not radial:
        return torch.from_numpy(firwin(taps, cutoff, width=2 * half_width, fs=rate)).float()
    places = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(places, places[:, None])  # never 0: the number of taps is even
    ideal = j1(2 * np.pi * cutoff * radius) / (np.pi * radius)
    window = kaiser(taps, kaiser_beta(kaiser_atten(taps, 2 * half_width / (rate / 2))))
    windowed = ideal * np.outer(window, window)
    return torch.from_numpy(windowed / windowed.sum()).float()


class FilteredLeakyReLU(nn.Module):
    """[N, C, h, h] -> [N, C, H, H]: upsampled, the leaky ReLU, clamped, and filtered while pixels are left out.

    Both images have the same centre; what lies outside of the first is 0. It computes in float32 at least, also where
    convolutions are told to compute in half precision: filters of 8 bits would not stop aliases. x has the gain of the
    activation already.

    Args:
        up_filter, down_filter: see `lowpass`; the first [taps], the second may be radial.
        up: rate of the activation by that of the input.
        down: rate of the activation by that of the result.
        size: H, in pixels.
    """

    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self, up_filter: Tensor, down_filter: Tensor, up: int, down: int, size: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.register_buffer("up_filter", up_filter * up, persistent=False)
        self.register_buffer("down_filter", down_filter, persistent=False)
        self.up = up
        self.down = down
        self.size = size
        self.clamp = clamp

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        with without_autocast(x):
            fine = activated(self._upsampled(at_least_float32(x)), self.clamp)
            return self._downsampled(fine).to(x.dtype)

    def _upsampled(self, x: Tensor) -> Tensor:
        """To the pixels that `_downsampled` needs."""
        needed = self.down * (self.size - 1) + self.down_filter.shape[-1]
        reached = self.up * (x.shape[-1] - 1) + self.up_filter.shape[-1]
        crop = (reached - needed) // 2  # the difference is even, as both numbers of taps and `up` or `down` are
        row = self.up_filter[None, None, None]
        x = spread(x, row, (1, self.up), (0, crop), (x.shape[2], needed))
        return spread(x, row.mT, (self.up, 1), (crop, 0), (needed, needed))

    def _downsampled(self, x: Tensor) -> Tensor:
        if self.down_filter.dim() == 2:
            return gather(x, self.down_filter[None, None], (self.down, self.down))
        row = self.down_filter[None, None, None]
        return gather(gather(x, row, (1, self.down)), row.mT, (self.down, 1))
