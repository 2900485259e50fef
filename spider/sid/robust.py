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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from spider import draws
from spider.embed.cache import Features
from spider.errors import SpiderUsageError
from spider.precision import exact_float32
from spider.sid.cube import PAPER_RADII, Cube, mean_of, rows_of_subsets, summarise, unit_points
from spider.sid.curve import POINTS, SidCurve
from spider.sid.kernels import Kernel
from spider.sid.radii import radii_to_measure
from spider.sid.sums import MIRRORS, Scratch, Slope, mean_over_points, slope_of_mean, working_dtype
from spider.sid.threads import Map, own_threads

SUBSETS = 20
IMAGES = 500
REPLICATES = 128
# A slope is a mean over all pairs of these, and enters the uncertainty alone.
_SLOPE_POINTS, _SLOPE_IMAGES = 32, 125
_ROWS = 1024  # images of a block
_REPLICATES_AT_ONCE, _WEIGHTS_AT_ONCE = 32, 1 << 24


@dataclass(frozen=True)
class ImageMeans:
    """What the images of one set contributed, over all subsets.

    Attributes:
        rows: int64 [U], the images that were used.
        uses: float64 [U], how often.
        totals: float64 [K, S, U], mean of psi over the points, summed over the uses, at S measured radii.
        slope: how the mean over images moves with the cube.
    """

    rows: NDArray[np.int64]
    uses: Tensor
    totals: Tensor
    slope: Slope

    def mean(self) -> Tensor:
        """float64 [K, S], over images."""
        return self.totals.sum(2) / self.uses.sum()

    def redrawn(self, weights: Tensor) -> Tensor:
        """The mean with image u taken weights[b, u] times: [B, U] -> float64 [B, K, S]."""
        weights = weights.double()
        totals = torch.einsum("bu,ksu->bks", weights, self.totals)
        return totals / (weights @ self.uses)[:, None, None]


@dataclass(frozen=True)
class RedrawnTarget:
    """What drawing the target's images again changes, B times.

    Attributes:
        means: float64 [B, K, S], of psi at the unmoved cube.
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
        if len(mean_of(features, name)) != cube.dim:
            raise SpiderUsageError(f"{name}: {features.shape[1]} features; the target has {cube.dim}")
    device = torch.device(device)
    with exact_float32(), own_threads(device) as each:
        estimator = _Estimator(cube, kernels, seed, subsets, replicates, device, each)
        count = cube.target.count
        at_target = estimator.measure(target, stretch=count / (count - 1))
        redrawn = estimator.redraw_target(at_target, target)
        return {
            name: estimator.curves(name, estimator.measure(features), at_target, redrawn)
            for name, features in tqdm(
                sources.items(), "signed distance", unit="source", disable=None if progress else True
            )
        }


class _Estimator:
    """What all sets of one call share: the cubes around the target and the points in them."""

    def __init__(
        self,
        cube: Cube,
        kernels: Sequence[Kernel],
        seed: int,
        subsets: int,
        replicates: int,
        device: torch.device,
        each: Map,
    ) -> None:
        dtype = working_dtype(cube, kernels)
        self._wanted, self._kernels, self._seed = cube, kernels, seed
        self._cube, self._to_wanted = radii_to_measure(cube, kernels, dtype)
        self._replicates, self._each, self._scratch = replicates, each, Scratch()

        def points_of(subset: int) -> Tensor:
            return torch.from_numpy(unit_points(seed, subset, POINTS // len(MIRRORS), cube.dim)).to(device, dtype)

        self._points = each(points_of, subsets)
        self._centre = torch.from_numpy(cube.target.mean).to(device, dtype)

    def measure(self, features: Features, stretch: float = 1.0) -> ImageMeans:
        """Every subset of a set against its points, images stretched about the cube's centre."""
        rows = rows_of_subsets(self._seed, len(self._points), min(IMAGES, len(features)), len(features))

        def images_of(subset: int) -> Tensor:
            images = torch.from_numpy(features[rows[subset]]).to(self._centre).sub_(self._centre)
            return images if stretch == 1 else images.mul_(stretch)

        def measure_subset(subset: int) -> Tensor:
            return mean_over_points(self._cube, self._kernels, self._points[subset], images_of(subset), self._scratch)

        means = torch.cat(self._each(measure_subset, len(rows)), dim=2)  # [K, S, subsets * size]
        used, inverse = np.unique(rows, return_inverse=True)
        where = torch.from_numpy(inverse.reshape(-1))
        totals = means.new_zeros(*means.shape[:2], len(used)).index_add_(2, where, means)
        uses = torch.bincount(where, minlength=len(used)).double()
        few = self._points[0][:_SLOPE_POINTS], images_of(0)[:_SLOPE_IMAGES]
        return ImageMeans(used, uses, totals, slope_of_mean(self._cube, self._kernels, *few, self._scratch))

    def curves(
        self, name: str, source: ImageMeans, target: ImageMeans, redrawn_target: RedrawnTarget
    ) -> list[SidCurve]:
        """Source less target, and the same for every replicate; one curve per kernel."""
        (redrawn_source,) = self._redraw(f"sid.redraw.{name}", len(source.rows), lambda w: (source.redrawn(w),))
        values = source.mean() - target.mean()  # [K, S], S measured radii
        moved = torch.einsum("bn,ksn->bks", redrawn_target.shift, source.slope.shift - target.slope.shift)
        stretched = redrawn_target.stretch[:, None, None] * (source.slope.stretch - target.slope.stretch)
        replicates = redrawn_source - redrawn_target.means + moved + stretched  # [B, K, S]
        values = POINTS * torch.einsum("krs,ks->kr", self._to_wanted, values)
        replicates = POINTS * torch.einsum("krs,bks->bkr", self._to_wanted, replicates)
        csids = replicates.sum(2)
        return [
            SidCurve(
                kernel=kernel,
                mode="robust",
                radii=np.array(self._wanted.radii),
                values=values[k].numpy(),
                stderr=replicates[:, k].std(0).numpy(),
                csid_stderr=float(csids[:, k].std()),
                csid_replicates=csids[:, k].numpy(),
            )
            for k, kernel in enumerate(self._kernels)
        ]

    def redraw_target(self, measured: ImageMeans, features: Features) -> RedrawnTarget:
        """Redraw the target's images: those that were measured, and all of them in the cube's centre and side."""
        images = torch.from_numpy(features).to(self._centre.device)
        target = self._cube.target
        deviation = np.sqrt(target.variance)
        inverse = np.divide(1, 2 * self._cube.dim * deviation, out=np.zeros_like(deviation), where=deviation > 0)
        weight, centre = (torch.from_numpy(values).to(images) for values in (inverse, target.mean))

        def side_of(block: int) -> Tensor:
            """First-order weight of each image in the cube's side."""
            return (images[block * _ROWS : (block + 1) * _ROWS] - centre).square_() @ weight

        side = torch.cat(self._each(side_of, -(-len(features) // _ROWS)))
        rows = torch.from_numpy(measured.rows)

        def statistic(weights: Tensor) -> tuple[Tensor, ...]:
            drawn = weights.to(images)
            return measured.redrawn(weights[:, rows]), (drawn @ images).double().cpu(), (drawn @ side).double().cpu()

        means, drawn_centre, drawn_side = self._redraw("sid.redraw", len(features), statistic)
        return RedrawnTarget(
            means=means,
            shift=drawn_centre / len(features) - torch.from_numpy(target.mean),
            stretch=drawn_side / len(features) / target.scale - 0.5,
        )

    def _redraw(self, stream: str, count: int, statistic: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Statistics of how often each of `count` images is drawn, when `count` are drawn with replacement.

        `statistic` maps float32 [b, count] to tensors [b, ...]; the results are theirs for all B replicates.
        """
        block = max(1, min(_REPLICATES_AT_ONCE, _WEIGHTS_AT_ONCE // count))

        def statistic_of(part: int) -> tuple[Tensor, ...]:
            drawn = [
                np.bincount(draws.generator(self._seed, stream, b).integers(count, size=count), minlength=count)
                for b in range(part * block, min((part + 1) * block, self._replicates))
            ]
            return statistic(torch.from_numpy(np.stack(drawn).astype(np.float32)))

        parts = self._each(statistic_of, -(-self._replicates // block))
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
