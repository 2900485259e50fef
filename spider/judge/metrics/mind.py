"""MIND, the Monge Inception Distance: how far two sets of equally many features are apart along random directions.

    3 d  x  mean over directions u, |u| = 1, of the mean over ranks j of (j-th least u.x - j-th least u.y)^2

(Berthet et al. 2026, arXiv 2605.06797, with 1,000 directions; the number of torch-fidelity 0.5 up to the draw of
directions). Sorting needs no covariance, so it says something from a thousand images on, where FD is mostly bias. It is
itself biased upwards by few images: compare it at equal counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spider import draws
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.distances import centre_of
from spider.judge.metrics.jackknife import GROUPS, LEAST, jackknife_stderr
from spider.judge.metrics.products import times_transposed
from spider.judge.metrics.spread import spread
from spider.precision import exact_float32
from untrusted.counts import counted

if TYPE_CHECKING:
    from cluster.world import World

DIRECTIONS = 1000
_TOGETHER = 50  # directions of a unit of work
_TRIED = 1000  # images: the fewest that the paper reports


@dataclass(frozen=True)
class MongeDistance:
    """The distance of equally many images.

    Attributes:
        value: at least 0.
        stderr: over images of both sets; None of fewer than 20 images.
        images: of each set.
    """

    value: float
    stderr: float | None
    images: int


def directions_of(first: int, stop: int, dim: int, seed: int) -> Tensor:
    """Directions number first .. stop - 1: float32 [stop - first, dim], each of length 1."""
    vectors = draws.normal(seed, "metrics.mind.directions", range(first, stop), (dim,)).double()
    unit: Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return unit.float()


def drawn(count: int, images: int, seed: int, which: str) -> NDArray[np.int64]:
    """Which `images` of `count` are measured, in random order. They are dealt into groups by that order."""
    return draws.generator(seed, f"metrics.mind.{which}").permutation(count)[:images]


def mind(
    samples: Features,
    reference: Features,
    world: World,
    *,
    seed: int,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> MongeDistance:
    """Of samples float32 [N, d] and reference float32 [M, d]; of the larger set, as many are drawn as the other has."""
    images, dim = min(len(samples), len(reference)), samples.shape[1]
    centre = centre_of(reference)  # which moves no difference, and keeps the rounding of projections small
    x, y = (
        torch.from_numpy((features[drawn(len(features), images, seed, which)] - centre).astype(np.float32)).to(
            world.device
        )
        for features, which in ((samples, "samples"), (reference, "reference"))
    )
    groups = [slice(images * g // GROUPS, images * (g + 1) // GROUPS) for g in range(GROUPS)] if images >= LEAST else []

    def unit(u: int) -> tuple[Tensor]:
        """The squared distance of all images, then those without each group, summed over this unit's directions."""
        along = directions_of(u * _TOGETHER, min((u + 1) * _TOGETHER, DIRECTIONS), dim, seed).to(world.device)
        ours, theirs = times_transposed(along, x), times_transposed(along, y)  # [directions, images]
        parts = [_squared_distance(ours, theirs)]
        parts += [_squared_distance(_without(ours, group), _without(theirs, group)) for group in groups]
        return (torch.stack(parts),)

    with exact_float32():
        (sums,) = spread(world, -(-DIRECTIONS // _TOGETHER), unit, label="mind", progress=progress, heartbeat=heartbeat)
    value, *without = (3 * dim * sums.sum(dim=0) / DIRECTIONS).tolist()
    return MongeDistance(value, jackknife_stderr(without) if groups else None, images)


def score_mind(c: Comparison) -> Score:
    """See above. All ranks."""
    found = mind(c.samples, c.reference, c.world, seed=c.seed, progress=c.progress, heartbeat=c.heartbeat)
    return Score(
        found.value,
        stderr=found.stderr,
        protocol={"directions": DIRECTIONS, "images": found.images, "groups": GROUPS},
        warnings=[f"{counted(found.images, 'image')}: its authors tried 1,000 and more; biased upwards by few images"]
        if found.images < _TRIED
        else [],
    )


def _without(projections: Tensor, group: slice) -> Tensor:
    """Projections [directions, images] without some of the images."""
    return torch.cat([projections[:, : group.start], projections[:, group.stop :]], dim=1)


def _squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """The mean squared difference of the sorted rows of float32 [directions, n], summed over directions: float64 []."""
    return (_sorted(x) - _sorted(y)).double().square().mean(dim=1).sum()


def _sorted(rows: Tensor) -> Tensor:
    """Each row ascending. numpy sorts float32 on a CPU thirty times as fast as torch, which also notes the order."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(dim=1).values
