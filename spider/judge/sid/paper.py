"""Signed distance, mode `paper`: the algorithm of the published code (DarthSid95/clean-sid), kept as it is.

It differs from `robust` in what follows; each of these moves the number or its noise, and none is a choice of ours.

    images    the first M = min(N_source, N_target) rows of each set; 500 drawn from them for every radius and subset
    points    500 new ones for every radius and subset
    average   over 20 subsets v_1 .. v_20 by S <- S / 2 + v / 2, starting from v_1: the last few count, not 20
    area      the plain sum over 49 radii

Draws are ours, because the published code seeds none. `spider.judge.sid.robust` gives the same curve with less noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.progress import Bar
from spider import draws
from spider.errors import SpiderUsageError
from spider.judge.embed.cache import Features
from spider.judge.sid.cube import PAPER_RADII, Cube, summarise
from spider.judge.sid.curve import POINTS, SidCurve
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.sums import working_dtype
from spider.precision import exact_float32
from spider.threads import Map, own_threads
from untrusted.counts import counted

SUBSETS = 20
IMAGES = 500


def paper_curves(
    target: Features,
    sources: Mapping[str, Features],
    kernels: Sequence[Kernel],
    *,
    seed: int = 0,
    radii: tuple[float, ...] = PAPER_RADII,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, list[SidCurve]]:
    """Signed distance of every source to the target, a curve per kernel: {source: [one per kernel]}.

    Arguments and errors as for `spider.judge.sid.robust.sid_curves`; at least 500 images in every set. Standard errors
    are those of the subsets' moving average, which sees too little when a set has few more images than a subset.
    """
    cube = Cube(summarise(target, "target"), radii)
    for name, features in {"target": target, **sources}.items():
        if summarise(features, name).count < IMAGES:
            raise SpiderUsageError(
                f"{name}: {counted(len(features), 'image')}; mode paper needs {IMAGES}, mode robust does not"
            )
        if features.shape[1] != cube.dim:
            raise SpiderUsageError(f"{name}: {features.shape[1]} features; the target has {cube.dim}")
    device = torch.device(device)
    with exact_float32(), own_threads(device) as each:
        return {
            name: _curves(cube, kernels, target, features, seed, device, each)
            for name, features in Bar(iterable=sources.items(), desc="signed distance", unit="source", shown=progress)
        }


def paper_draws(
    seed: int, radius: int, subset: int, count: int, dim: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the target [500], rows of the source [500], and points in [-1, 1]^dim [500, dim]."""
    rng = draws.generator(seed, "sid.paper", radius * SUBSETS + subset)
    target, source = (rng.choice(count, IMAGES, replace=False) for _ in range(2))
    return target, source, 2 * rng.random((POINTS, dim), dtype=np.float32) - 1


def moving_average_weights(subsets: int) -> NDArray[np.float64]:
    """What each subset counts in S <- S / 2 + v / 2 started from the first: 2^-(n-1), 2^-(n-1), 2^-(n-2) .. 1/2."""
    return 0.5 ** np.array([subsets - 1, *range(subsets - 1, 0, -1)])


def _curves(
    cube: Cube,
    kernels: Sequence[Kernel],
    target: Features,
    source: Features,
    seed: int,
    device: torch.device,
    each: Map,
) -> list[SidCurve]:
    centre = torch.from_numpy(cube.target.mean).to(device, working_dtype(cube, kernels))
    count = min(len(target), len(source))

    def at_radius(r: int) -> Tensor:
        """[SUBSETS, K] at radius number r."""
        values = torch.empty(SUBSETS, len(kernels), dtype=torch.float64)
        for subset in range(SUBSETS):
            target_rows, source_rows, u = paper_draws(seed, r, subset, count, cube.dim)
            points = cube.half_widths[r] * torch.from_numpy(u).to(centre)
            near, far = (
                _sum_over_points(cube, r, kernels, points, torch.from_numpy(features[rows]).to(centre) - centre)
                for features, rows in ((target, target_rows), (source, source_rows))
            )
            values[subset] = far - near
        return values

    values = torch.stack(each(at_radius, len(cube.radii))).numpy()  # [R, SUBSETS, K]
    weights = moving_average_weights(SUBSETS)
    averages = np.einsum("rsk,s->kr", values, weights)
    errors = values.std(1, ddof=1).T * np.sqrt(np.square(weights).sum())
    return [
        SidCurve(
            kernel, "paper", np.array(cube.radii), averages[k], errors[k], float(np.sqrt(np.square(errors[k]).sum()))
        )
        for k, kernel in enumerate(kernels)
    ]


def _sum_over_points(cube: Cube, r: int, kernels: Sequence[Kernel], points: Tensor, images: Tensor) -> Tensor:
    """The sum over points [P, n] of the mean over images [M, n] of psi: float64 [K]."""
    squared = points.square().sum(1, keepdim=True) + images.square().sum(1) - 2 * (points @ images.T)
    inverse, out = squared.rsqrt(), torch.empty_like(squared)
    sums = [k.sign * k.growth(squared, inverse, out, cube.typical_distances[r]).sum(1).double().sum() for k in kernels]
    return torch.stack(sums).cpu() / len(images)
