"""Between stored images and the networks' images.

Stored: uint8, 0 to 255. In the networks: float, -1 to 1. Grey to colour repeats; colour to grey takes the luma of ITU-R
BT.601 (0.299 R + 0.587 G + 0.114 B).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

_LUMA = (0.299, 0.587, 0.114)


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [N, C, H, W], 0 to 255, to `dtype` [N, C, H, W], -1 to 1."""
    return images.to(dtype).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Float [N, C, H, W], -1 to 1 and clamped there, to uint8: 127.5 x + 128 rounded down, as StyleGAN2-ADA does."""
    return (images.detach().to(torch.float32) * 127.5 + 128).clamp_(0, 255).to(torch.uint8)


def match_channels(images: Tensor, channels: int) -> Tensor:
    """Float [N, 1 or 3, H, W] to [N, channels, H, W], channels 1 or 3."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, with the filter widened on the way down (antialias), so that no detail of a larger image aliases."""
    if tuple(images.shape[-2:]) == (height, width):
        return images
    return interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
