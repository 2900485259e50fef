"""Affine warps of images without aliasing, as StyleGAN2-ADA does them.

Images are padded by reflection, doubled in size with an orthogonal wavelet's low-pass filter, sampled bilinearly, and
halved by the same filter. The filter is orthogonal to its even shifts, so the identity gives the images back.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, conv_transpose2d, grid_sample

from spider.gan.augment import deterministic

# The low-pass filter of the symlet with six vanishing moments (Daubechies), which sums to the square root of 2
_SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_TAPS = len(_SYM6)
_PAD = _TAPS // 4  # pixels around an image that the filters see


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Move the content of images.

    Args:
        images: [N, C, H, W].
        inverse: where each output pixel comes from, float64 [N, 3, 3] on the CPU: homogeneous coordinates in pixels,
            (x, y) with the image's centre as origin.

    Returns:
        [N, C, H, W]. What comes from outside an image is its reflection, and 0 where that ends.
    """
    height, width = images.shape[2:]
    left, top, right, bottom = margins(inverse, height, width)
    images = deterministic.reflect(images, left, right, top, bottom)
    inverse = _translation((left - right) / 2, (top - bottom) / 2) @ inverse
    images = _double(images)
    inverse = _scaling(2, 2) @ inverse @ _scaling(0.5, 0.5)
    inverse = _translation(-0.5, -0.5) @ inverse @ _translation(0.5, 0.5)
    out_height, out_width = 2 * (height + 2 * _PAD), 2 * (width + 2 * _PAD)
    inverse = _scaling(2 / images.shape[3], 2 / images.shape[2]) @ inverse @ _scaling(out_width / 2, out_height / 2)
    theta = inverse[:, :2].to(images.device, images.dtype, non_blocking=True)
    grid = affine_grid(theta, [len(images), images.shape[1], out_height, out_width], align_corners=False)
    return _halve(_Sampled.apply(images, grid))


def margins(inverse: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """How far outside the warps of a batch look, in pixels: left, top, right, bottom. Found on the CPU.

    As far as any filter reaches, at any scale, so that an image does not depend on what it is warped together with:
    batches are cut into micro-batches, and over ranks. (StyleGAN2-ADA pads less where it shrinks or turns images.)
    """
    x, y = (width - 1) / 2, (height - 1) / 2
    # The outermost sample that counts, a quarter of a pixel within the padding: samples have half a pixel's distance
    far_x, far_y = x + _PAD - 0.25, y + _PAD - 0.25
    corners = inverse.new_tensor([[-far_x, -far_y, 1], [far_x, -far_y, 1], [far_x, far_y, 1], [-far_x, far_y, 1]])
    places = (inverse @ corners.T)[:, :2]  # [N, 2, 4]
    reach = places.permute(1, 0, 2).flatten(1)  # [2, 4 N]
    farthest = torch.cat([-reach, reach]).amax(dim=1)  # left, top, right, bottom
    # A sample lies between two of the doubled image, each made of the pixels that its filter covers
    outside = farthest + (_PAD + 0.25) - farthest.new_tensor([x, y, x, y])
    # A reflection has no more pixels than the image but one
    largest = outside.new_tensor([width - 1, height - 1] * 2)
    left, top, right, bottom = outside.clamp_min(0).minimum(largest).ceil().int().tolist()
    return left, top, right, bottom


class _Sampled(torch.autograd.Function):
    """Bilinear samples of images at the places of a grid that is given, differentiable as often as asked for.

    Sampling is linear in the images: its derivative is its adjoint, and the adjoint's derivative is sampling again.
    torch 2.11 has no second derivative of its own sampling.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(gradients[0], grid, ctx.shape), None


class _Spread(torch.autograd.Function):
    """The adjoint of sampling: each value goes to the pixels that its sample was made of, by the same weights."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        if deterministic.needed(values):
            return deterministic.spread(values, grid, shape)
        images = values.new_empty(shape)  # of which the operator reads the shape alone
        bilinear, zeros, of_images_alone = 0, 0, [True, False]
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            values, images, grid, bilinear, zeros, False, of_images_alone
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sampled.apply(gradients[0], grid), None, None


def _double(images: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2 H, 2 W]."""
    taps = _filter(images.dtype, images.device) * 2
    planes = images.flatten(0, 1).unsqueeze(1)  # [N C, 1, H, W]: one filter for all channels
    crop = _TAPS // 2 - 1
    planes = conv_transpose2d(planes, taps.view(1, 1, 1, -1), stride=(1, 2), padding=(0, crop))
    planes = conv_transpose2d(planes, taps.view(1, 1, -1, 1), stride=(2, 1), padding=(crop, 0))
    return planes.view(*images.shape[:2], *planes.shape[2:])


def _halve(images: Tensor) -> Tensor:
    """[N, C, 2 (H + 2 pad), 2 (W + 2 pad)] -> [N, C, H, W]."""
    taps = _filter(images.dtype, images.device)
    planes = images.flatten(0, 1).unsqueeze(1)[..., 1:-1, 1:-1]
    planes = conv2d(planes, taps.view(1, 1, 1, -1), stride=(1, 2))
    planes = conv2d(planes, taps.view(1, 1, -1, 1), stride=(2, 1))
    return planes.view(*images.shape[:2], *planes.shape[2:])


@lru_cache(maxsize=16)
def _filter(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept on the device: it would be waited for at every copy from the host."""
    taps = torch.tensor(_SYM6, dtype=dtype, device=device)
    return taps / taps.sum()


def _translation(x: float, y: float) -> Tensor:
    return torch.tensor([[1.0, 0, x], [0, 1, y], [0, 0, 1]], dtype=torch.float64)


def _scaling(x: float, y: float) -> Tensor:
    return torch.tensor([[x, 0.0, 0], [0, y, 0], [0, 0, 1]], dtype=torch.float64)
