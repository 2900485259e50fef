"""Signed distance, mode `robust`: the mean over many subsets, with an uncertainty that holds for fresh images.

Every subset has its own points and takes the next images in shuffled order. All sources of a target see the same
points and the same target images, so that their differences are known better than their values.

A target image is measured from the mean of the *other* target images, which only stretches it by N / (N - 1). Without
this, images would lie nearer to a cube that they pulled towards themselves than new images of the same law do, and a
second sample of the target would seem distant: by T / N in squared distance, T the total variance.

Uncertainty is by bootstrap over images. Drawing images again multiplies the sums that each contributed and, for the
target, moves and stretches the cube. The first is exact, the second first-order, and neither needs a product again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from spider import draws
from spider.embed.cache import Features
from spider.embed.precision import exact_float32
from spider.errors import SpiderUsageError
from spider.sid.cube import PAPER_RADII, Cube, rows_of_subsets, summarise, unit_points
from spider.sid.curve import POINTS, SidCurve
from spider.sid.kernels import Kernel
from spider.sid.sums import MIRRORS, Slope, mean_over_points, slope_of_mean, working_dtype
from spider.sid.threads import in_threads

SUBSETS = 20
IMAGES = 500
REPLICATES = 128
_SLOPE_IMAGES = 125  # a slope is a mean over all pairs with points, and enters the uncertainty alone
_WEIGHTS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class ImageMeans:
    """What the images of one set contributed, over all subsets.

    Attributes:
        rows: int64 [U], the images that were used.
        uses: float64 [U], how often.
        totals: float64 [K, R, U], mean of psi over the points, summed over the uses.
        slope: how the mean over images moves with the cube.
    """

    rows: NDArray[np.int64]
    uses: Tensor
    totals: Tensor
    slope: Slope

    def mean(self) -> Tensor:
        """float64 [K, R], over images."""
        return self.totals.sum(2) / self.uses.sum()

    def resampled(self, weights: Tensor) -> Tensor:
        """The mean with image u taken weights[b, u] times: [B, U] -> float64 [B, K, R]."""
        weights = weights.double()
        totals = torch.einsum("bu,kru->bkr", weights, self.totals)
        return totals / (weights @ self.uses)[:, None, None]


@dataclass(frozen=True)
class Resampled:
    """What drawing the target's images again changes.

    Attributes:
        means: float64 [B, K, R], of psi at the unmoved cube.
        shift: float64 [B, n], move of the cube's centre.
        stretch: float64 [B], relative change of the cube's side.
    """

    means: Tensor
    shift: Tensor
    stretch: Tensor


def sid_curves(
    target: Features,
    sources: Mapping[str, Features],
    kernels: Sequence[Kernel],
    *,
    seed: int = 0,
    radii: tuple[float, ...] = PAPER_RADII,
    subsets: int = SUBSETS,
    replicates: int = REPLICATES,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, list[SidCurve]]:
    """Signed distance of every source to the target, a curve per kernel: {source: [one per kernel]}.

    Args:
        target: float32 [N, n], N at least 2.
        sources: float32 [M, n] by name. The name addresses the source's redrawn images.
        kernels: any number; one product serves them all.
        seed: of points, the order of images, and redrawn images.
        radii: sides of the cubes in target standard deviations.
        subsets: each of 500 points and up to 500 images of each set.
        replicates: bootstrap replicates.
        device: where the products are computed.
        progress: show a bar, by source.

    Raises:
        SpiderUsageError: too few images, or sets of different dimensions.
        SpiderError: features that are not finite, a target that does not vary, a relative kernel that overflows.
    """
    cube = Cube(summarise(target, "target"), radii)
    for name, features in sources.items():
        if summarise(features, name).mean.shape != cube.target.mean.shape:
            raise SpiderUsageError(f"{name}: {features.shape[1]} features; the target has {cube.dim}")
    device = torch.device(device)
    dtype = working_dtype(cube, kernels)

    def points_of(subset: int) -> Tensor:
        return torch.from_numpy(unit_points(seed, subset, POINTS // len(MIRRORS), cube.dim)).to(device, dtype)

    with exact_float32():
        points = in_threads(points_of, subsets, device)
        count = cube.target.count
        at_target = _measure(cube, kernels, points, target, seed, stretch=count / (count - 1))
        redrawn = _resample_target(cube, at_target, target, seed, replicates, device)
        curves = {}
        for name, features in tqdm(sources.items(), "signed distance", unit="source", disable=not progress):
            at_source = _measure(cube, kernels, points, features, seed)
            weights = torch.cat(list(_resample(seed, f"sid.redraw.{name}", len(at_source.rows), replicates)))
            curves[name] = _curves(cube, kernels, at_source, at_source.resampled(weights), at_target, redrawn)
    return curves


def _measure(
    cube: Cube, kernels: Sequence[Kernel], points: list[Tensor], features: Features, seed: int, stretch: float = 1.0
) -> ImageMeans:
    """Every subset of one set against its points, images stretched about the cube's centre."""
    subsets, size = len(points), min(IMAGES, len(features))
    rows = rows_of_subsets(seed, subsets, size, len(features))
    centre = torch.from_numpy(cube.target.mean).to(points[0])

    def images_of(subset: int) -> Tensor:
        return (torch.from_numpy(features[rows[subset]]).to(centre) - centre) * stretch

    def measure(subset: int) -> Tensor:
        return mean_over_points(cube, kernels, points[subset], images_of(subset))

    means = torch.cat(in_threads(measure, subsets, centre.device), dim=2)  # [K, R, subsets * size]
    used, inverse = np.unique(rows, return_inverse=True)
    where = torch.from_numpy(inverse.reshape(-1))
    totals = means.new_zeros(*means.shape[:2], len(used)).index_add_(2, where, means)
    uses = torch.bincount(where, minlength=len(used)).double()
    slope = slope_of_mean(cube, kernels, points[0], images_of(0)[:_SLOPE_IMAGES])
    return ImageMeans(used, uses, totals, slope)


def _curves(
    cube: Cube,
    kernels: Sequence[Kernel],
    source: ImageMeans,
    redrawn_source: Tensor,
    target: ImageMeans,
    redrawn_target: Resampled,
) -> list[SidCurve]:
    """Source less target, and the same for every replicate."""
    values = POINTS * (source.mean() - target.mean())  # [K, R]
    moved = torch.einsum("bn,krn->bkr", redrawn_target.shift, source.slope.shift - target.slope.shift)
    stretched = redrawn_target.stretch[:, None, None] * (source.slope.stretch - target.slope.stretch)
    replicates = POINTS * (redrawn_source - redrawn_target.means + moved + stretched)  # [B, K, R]
    csids = replicates.sum(2)
    return [
        SidCurve(
            kernel=kernel,
            mode="robust",
            radii=np.array(cube.radii),
            values=values[k].numpy(),
            stderr=replicates[:, k].std(0).numpy(),
            csid_stderr=float(csids[:, k].std()),
            csid_replicates=csids[:, k].numpy(),
        )
        for k, kernel in enumerate(kernels)
    ]


def _resample_target(
    cube: Cube, at_target: ImageMeans, features: Features, seed: int, replicates: int, device: torch.device
) -> Resampled:
    """Redraw the target's images: those that were measured, and all of them in the cube's centre and side."""
    count, images = len(features), torch.from_numpy(features)
    centre, scale = torch.from_numpy(cube.target.mean), cube.target.scale
    deviation = np.sqrt(cube.target.variance)
    inverse = np.divide(1, 2 * cube.dim * deviation, out=np.zeros_like(deviation), where=deviation > 0)
    blocks = (images[start : start + 4096] for start in range(0, count, 4096))
    # First-order weight of each image in the cube's side, [N].
    side = torch.cat([(block - centre.float()).square() @ torch.from_numpy(inverse).float() for block in blocks])
    means, shift, stretch = [], [], []
    for weights in _resample(seed, "sid.redraw", count, replicates):
        means.append(at_target.resampled(weights[:, torch.from_numpy(at_target.rows)]))
        shift.append((weights.to(device) @ images.to(device)).cpu().double() / count)
        stretch.append((weights @ side).double() / count)
    return Resampled(torch.cat(means), torch.cat(shift) - centre, (torch.cat(stretch) - scale / 2) / scale)


def _resample(seed: int, stream: str, count: int, replicates: int) -> Iterator[Tensor]:
    """How often each of `count` images is drawn when `count` are drawn with replacement: float32 [b, count] blocks."""
    block = max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, replicates, block):
        drawn = (
            np.bincount(draws.generator(seed, stream, b).integers(count, size=count), minlength=count)
            for b in range(start, min(start + block, replicates))
        )
        yield torch.from_numpy(np.stack([weights.astype(np.float32) for weights in drawn]))
