"""The expensive part of signed distance: one product of points and images, from which every radius and order follow.

With c measured from the cube's centre and x = h u,  |x - c|^2 = h^2 |u|^2 - 2 h u.c + |c|^2.  The product u.c does not
depend on h; what does costs one pass over [points, images] per radius, and one more per order. Points come as u and
-u, which needs no second product, and cancels the part of the noise that is odd in u, the larger part.

What leaves here are sums per image, never distances: they are small enough to send, and enough to draw the images
again, which is how uncertainty is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spider.sid.cube import Cube
from spider.sid.kernels import Kernel

# In few dimensions a point may come so near an image that the difference of squares loses its digits.
_FLOAT32_FROM_DIM = 64


@dataclass(frozen=True)
class Slope:
    """How the mean of psi moves with the cube, over the points and images of one subset.

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
    cube: Cube, kernels: Sequence[Kernel], unit_points: Tensor, images: Tensor, *, slope: bool = False
) -> tuple[Tensor, Slope | None]:
    """The mean of psi(|x - c|) over the points x of the cube, for each image c.

    Args:
        cube: the cubes.
        kernels: K kernels.
        unit_points: [P, n] in [-1, 1], in the dtype and on the device to compute with; P mirrored ones are added.
        images: [M, n], features less the cube's centre, likewise.
        slope: whether to differentiate by the cube, too.

    Returns:
        float64 [K, R, M] on the CPU, and the slope of its mean over the images, if asked for.
    """
    point_norms, image_norms = unit_points.square().sum(1), images.square().sum(1)
    product = unit_points @ images.T  # [P, M]
    centre_part = torch.empty_like(product)
    squared, psi = (product.new_empty(2, *product.shape) for _ in range(2))
    sums = product.new_empty(len(kernels), len(cube.radii), len(images))
    slopes = _Slopes(kernels, cube, unit_points, images) if slope else None
    for r, (h, unit) in enumerate(zip(cube.half_widths, cube.typical_distances, strict=True)):
        torch.add((h**2 * point_norms)[:, None], image_norms, out=centre_part)
        torch.add(centre_part, product, alpha=-2 * h, out=squared[0])  # to x = h u
        torch.add(centre_part, product, alpha=2 * h, out=squared[1])  # to x = -h u
        for k, kernel in enumerate(kernels):
            torch.sum(kernel.of_squared(squared, psi, unit), (0, 1), out=sums[k, r])
        if slopes is not None:
            slopes.add(r, h, unit, squared, point_norms, image_norms)
    means = sums.double().cpu() / (2 * len(unit_points))
    return means, slopes.result() if slopes is not None else None


class _Slopes:
    """Accumulates a `Slope`, radius by radius."""

    def __init__(self, kernels: Sequence[Kernel], cube: Cube, unit_points: Tensor, images: Tensor) -> None:
        self._kernels, self._points, self._images = kernels, unit_points, images
        self._shift = unit_points.new_empty(len(kernels), len(cube.radii), cube.dim)
        self._stretch = unit_points.new_empty(len(kernels), len(cube.radii))

    def add(self, r: int, h: float, unit: float, squared: Tensor, point_norms: Tensor, image_norms: Tensor) -> None:
        """Sum w (x - c) and w x.(x - c) over points x and images c, where w = psi'(d) / d."""
        # Softened below a tenth of the typical distance: nothing comes so near in many dimensions, and in few the
        # derivative of 1 / d has no variance.
        squared = squared.clamp(min=0.01 * float(squared.mean()))
        pairs = squared.numel()
        for k, kernel in enumerate(self._kernels):
            weight = kernel.slope_over_distance(squared, unit)  # [2, P, M]
            by_point, by_image = weight.sum(2), weight.sum((0, 1))
            pull_of_points = h * (by_point[0] - by_point[1]) @ self._points
            self._shift[k, r] = (pull_of_points - by_image @ self._images) / pairs
            # x.(x - c) = (|x|^2 - |c|^2 + |x - c|^2) / 2
            outward = h**2 * by_point.sum(0) @ point_norms - by_image @ image_norms + weight.mul_(squared).sum()
            self._stretch[k, r] = outward / (2 * pairs)

    def result(self) -> Slope:
        return Slope(self._shift.double().cpu(), self._stretch.double().cpu())
