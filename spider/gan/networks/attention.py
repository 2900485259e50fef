"""Self-attention between the places of a map (Zhang et al. 2019, SAGAN), as BigGAN has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from spider.gan.networks.spectral import SpectralConv


class SelfAttention(nn.Module):
    """x [N, C, H, W] -> x + strength * what every place sees of all, where H and W are even.

    beta = softmax(query^T key) [N, H W, H W / 4],   query, key: C / 8 channels,   value: C / 2 channels

    Keys and values are the largest of each 2x2 places. The strength is learnt, from 0 on. The products are written out,
    because PyTorch's fused attention cannot be differentiated twice, as a gradient penalty needs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query = SpectralConv(channels, narrow, 1)
        self.key = SpectralConv(channels, narrow, 1)
        self.value = SpectralConv(channels, half, 1)
        self.out = SpectralConv(half, channels, 1)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        query = self.query(x).flatten(2)  # [N, C / 8, H W]
        key, value = (max_pool2d(each(x), 2).flatten(2) for each in (self.key, self.value))
        beta = (query.transpose(1, 2) @ key).softmax(2).to(value.dtype)
        seen = (value @ beta.transpose(1, 2)).unflatten(2, x.shape[2:])  # [N, C / 2, H, W]
        changed: Tensor = x + (self.strength * self.out(seen)).to(x.dtype)
        return changed
