"""The expensive part of signed distance: one product of points and images, from which every radius and order follow.

With c measured from the cube's centre and x = h u,  |x - c|^2 = h^2 |u|^2 - 2 h u.c + |c|^2.  The product u.c does not
depend on h; what does is one pass over [points, images] for each radius, and about one more for each order.

Points come in fours: (a, b), (-a, -b), (a, -b), (-a, b), for a point u of two halves. One product of each half serves
all four, and the noise that is odd in a half, which is most of it, cancels.

What leaves here are means per image, never distances: small enough to send, and enough to draw the images again, which
is how uncertainty is computed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spider.judge.sid.cube import Cube
from spider.judge.sid.kernels import Kernel

MIRRORS = ((1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0))  # signs of the halves of a point

# In few dimensions a point may come so near an image that the difference of squares loses its digits.
_FLOAT32_FROM_DIM = 64


class Scratch(threading.local):
    """A thread's memory for one piece of work after another: fresh pages would cost as much as the arithmetic."""

    _memory: Tensor | None = None

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of any content, good until the thread's next `take`."""
        size = math.prod(shape)
        if self._memory is None or len(self._memory) < size or self._memory.dtype != like.dtype:
            self._memory = like.new_empty(size)
        return self._memory[:size].view(shape)


@dataclass(frozen=True)
class Slope:
    """How the mean of psi over points and images moves with the cube.

    Attributes:
        shift: float64 [K, R, n], its gradient in the cube's centre.
        stretch: float64 [K, R], its derivative in the logarithm of the cube's side.
    """

    shift: Tensor
    stretch: Tensor


def working_dtype(cube: Cube, kernels: Sequence[Kernel]) -> torch.dtype:
    """float32 where distances and powers keep their digits in it."""
    wide = cube.dim < _FLOAT32_FROM_DIM or any(kernel.relative for kernel in kernels)
    return torch.float64 if wide else torch.float32


def mean_over_points(
    cube: Cube, kernels: Sequence[Kernel], unit_points: Tensor, images: Tensor, scratch: Scratch
) -> Tensor:
    """The mean of psi(|x - c|) over the points x of the cube, for each image c and radius: float64 [K, R, M], CPU.

    Args:
        cube: the cubes of R radii.
        kernels: K of them.
        unit_points: [P, n] in [-1, 1], in the dtype and on the device to compute with; each stands for four.
        images: [M, n], features less the cube's centre, likewise.
        scratch: what it may write to.
    """
    point_norms, image_norms = unit_points.square().sum(1, keepdim=True), images.square().sum(1)
    planes = scratch.take((18, len(unit_points), len(images)), unit_points)
    product, squared, inverse, out = (planes[4 * i : 4 * i + 4] for i in range(4))  # [4, P, M]
    even = planes[16]
    _signed_product(unit_points, images, planes[16:], product)
    sums = product.new_empty(len(kernels), len(cube.radii), len(images))
    for r, (h, unit) in enumerate(zip(cube.half_widths, cube.typical_distances, strict=True)):
        torch.add(h**2 * point_norms, image_norms, out=even)
        torch.add(even, product, alpha=-2 * h, out=squared)
        torch.rsqrt(squared, out=inverse)
        for k, kernel in enumerate(kernels):
            torch.sum(kernel.growth(squared, inverse, out, unit), (0, 1), out=sums[k, r])
    signs = torch.tensor([kernel.sign for kernel in kernels], dtype=torch.float64)
    return signs[:, None, None] * sums.double().cpu() / (len(MIRRORS) * len(unit_points))


def slope_of_mean(
    cube: Cube, kernels: Sequence[Kernel], unit_points: Tensor, images: Tensor, scratch: Scratch
) -> Slope:
    """How the mean of `mean_over_points` over these images moves with the cube; arguments as there.

    With w = psi'(d) / d, the gradient is the mean of w (x - c), and the other derivative that of w x.(x - c). Sums of
    w by point and by image are all that these take.
    """
    planes = scratch.take((6, len(unit_points), len(images)), unit_points)
    product = _signed_product(unit_points, images, planes[4:], planes[:4])
    point_norms, image_norms = unit_points.square().sum(1), images.square().sum(1)
    curves = (len(kernels), len(cube.radii))
    by_point, by_image = product.new_empty(*curves, *product.shape[:2]), product.new_empty(*curves, len(images))
    times_squared = product.new_empty(curves)
    for r, (h, typical) in enumerate(zip(cube.half_widths, cube.typical_distances, strict=True)):
        squared = (h**2 * point_norms[:, None] + image_norms) - 2 * h * product
        # Softened below a tenth of the typical distance: nothing comes so near in many dimensions, and in few the
        # derivative of 1 / d has no variance.
        squared.clamp_(min=0.01 * typical**2)
        for k, kernel in enumerate(kernels):
            weight = kernel.slope_over_distance(squared, typical)  # [4, P, M]
            by_point[k, r], by_image[k, r] = weight.sum(2), weight.sum((0, 1))
            times_squared[k, r] = weight.mul_(squared).sum()
    halves = zip((by_point.new_tensor(MIRRORS).T @ by_point).unbind(2), unit_points.tensor_split(2, 1), strict=True)
    widths = torch.tensor(cube.half_widths).to(product)
    shift = widths[:, None] * torch.cat([total @ half for total, half in halves], dim=2) - by_image @ images
    # x.(x - c) = (|x|^2 - |c|^2 + |x - c|^2) / 2
    stretch = (widths**2 * (by_point.sum(2) @ point_norms) - by_image @ image_norms + times_squared) / 2
    return Slope((shift / product.numel()).double().cpu(), (stretch / product.numel()).double().cpu())


def _signed_product(unit_points: Tensor, images: Tensor, halves: Tensor, out: Tensor) -> Tensor:
    """u.c for each of a point's four mirror images: [P, n], [M, n] -> `out` [4, P, M], by way of `halves` [2, P, M]."""
    for half, u, c in zip(halves, unit_points.tensor_split(2, 1), images.tensor_split(2, 1), strict=True):
        torch.mm(u, c.T, out=half)
    torch.add(halves[0], halves[1], out=out[0])
    torch.neg(out[0], out=out[1])
    torch.sub(halves[0], halves[1], out=out[2])
    torch.neg(out[2], out=out[3])
    return out
