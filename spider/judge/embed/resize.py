"""The rules by which images are resized for an embedding. The rule is part of every number that comes after it.

Three families: `filtered`, which is Pillow's on floats (the filter is widened to the output's pixel, so nothing
aliases); `pillow_bicubic`, which is Pillow itself, on bytes; and `tf1_bilinear`, which is TensorFlow 1's (no widening,
and pixel centres off by half a pixel), in which FID was born. Of them are made the protocols of Inception's input:

    tf            TF1 bilinear, (x - 128) / 128                         the original FID, torch-fidelity, NVIDIA's
    pytorch_fid   torch bilinear without antialias, 2 x / 255 - 1       pytorch-fid
    clean         Pillow bicubic per channel in float, (x - 128) / 128  clean-fid's clean mode, the published SID
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Filter = Literal["triangle", "cubic"]

INCEPTION_SIZE = 299


def filtered(images: Tensor, size: int, filter: Filter) -> Tensor:
    """float [N, C, H, W] -> [N, C, size, size] as Pillow's BILINEAR (triangle) or BICUBIC (cubic) does on floats."""
    rows, columns = (_filter_matrix(length, size, filter).to(images.device) for length in images.shape[2:])
    return rows @ images @ columns.T


def pillow_bicubic(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W], C 1 or 3 -> uint8 [N, C, size, size], by Pillow, which rounds after either direction."""
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    resized = [
        np.asarray(
            Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        for picture in pictures
    ]
    stacked = torch.from_numpy(np.stack(resized)).reshape(len(images), size, size, images.shape[1])
    return stacked.permute(0, 3, 1, 2).to(images.device)


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """float [N, C, H, W] -> [N, C, size, size] as tf.image.resize_bilinear, align_corners and half_pixel_centers off.

    Output pixel i reads at i * H / size, between its two neighbours; the last row and column repeat.
    """
    for dim in (3, 2):
        length = images.shape[dim]
        # In float32, as TensorFlow has it: the position decides which pixels are read.
        position = torch.arange(size, dtype=torch.float32) * (torch.tensor(length, dtype=torch.float32) / size)
        low = position.long()
        high = (low + 1).clamp(max=length - 1)
        fraction = (position - low).to(images.device).view(-1, *[1] * (3 - dim))
        before, after = (images.index_select(dim, index.to(images.device)) for index in (low, high))
        images = before + (after - before) * fraction
    return images


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2, which is Pillow's."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


_KERNELS: dict[Filter, Callable[[Tensor], Tensor]] = {"triangle": _triangle, "cubic": _cubic}


@lru_cache(maxsize=64)
def _filter_matrix(size_in: int, size_out: int, filter: Filter) -> Tensor:
    """Row i has the weights of output pixel i over the input: float32 [size_out, size_in], rows sum to 1."""
    scale = size_in / size_out
    centres = (torch.arange(size_out, dtype=torch.float64) + 0.5) * scale - 0.5
    offsets = torch.arange(size_in, dtype=torch.float64) - centres[:, None]
    weights = _KERNELS[filter](offsets / max(scale, 1.0))
    return (weights / weights.sum(1, keepdim=True)).float()


def _to_tf(pixels: Tensor) -> Tensor:
    return (tf1_bilinear(pixels, INCEPTION_SIZE) - 128) / 128


def _to_pytorch_fid(pixels: Tensor) -> Tensor:
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    return 2 * F.interpolate(pixels / 255, size=size, mode="bilinear", align_corners=False) - 1


def _to_clean(pixels: Tensor) -> Tensor:
    return (filtered(pixels, INCEPTION_SIZE, "cubic").clamp(0, 255) - 128) / 128


# float [N, 3, H, W] in [0, 255] -> [N, 3, 299, 299] as the network takes them
INCEPTION_PROTOCOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "tf": _to_tf,
    "pytorch_fid": _to_pytorch_fid,
    "clean": _to_clean,
}
