"""Precision, recall, density and coverage: how good the samples are, and how much of the reference they reach.

Around each image of a set stands a ball that reaches its k-th nearest other image of that set.

    precision   share of samples inside the ball of some reference image              (Kynkäänniemi et al. 2019)
    recall      share of reference images inside the ball of some sample
    density     number of reference balls around a sample, over k; can exceed 1       (Naeem et al. 2020)
    coverage    share of reference balls with a sample inside
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.distances import Points, centre_of, padded, squared_distances, squared_radii, within
from spider.judge.metrics.spread import spread

if TYPE_CHECKING:
    from cluster.world import World


@dataclass(frozen=True)
class Neighbourhood:
    """What counts as inside a ball.

    Attributes:
        k: the ball of an image reaches its k-th nearest other image.
        strict: whether an image on the surface is outside.
    """

    name: str
    k: int
    strict: bool


NV_PR = Neighbourhood("nv_pr", k=3, strict=False)  # Kynkäänniemi et al., NVIDIA's metrics, ADM's evaluator
PRDC = Neighbourhood("prdc", k=5, strict=True)  # Naeem et al., the prdc package, StudioGAN, IC-GAN


@dataclass(frozen=True)
class Manifolds:
    """The four numbers under one neighbourhood.

    Attributes:
        reference_repeated: share of the reference images that have k copies or more among the others. Their balls have
            radius 0; if `strict`, nothing is inside.
        samples_repeated: the same of the samples.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    reference_repeated: float = 0.0
    samples_repeated: float = 0.0


def prdc(
    samples: Features,
    reference: Features,
    neighbourhoods: Sequence[Neighbourhood],
    world: World,
    *,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> list[Manifolds]:
    """The four numbers of samples float32 [M, d] against reference float32 [N, d], for each neighbourhood.

    Time grows as N^2 + M^2 + N M; memory as N + M, with blocks of `ROWS` x `ROWS` distances.
    """
    centre = centre_of(reference)
    real, fake = (Points(features, centre, world.device) for features in (reference, samples))
    ks = [neighbourhood.k for neighbourhood in neighbourhoods]
    real_radii, fake_radii = (
        squared_radii(points, ks, world, progress=progress, heartbeat=heartbeat) for points in (real, fake)
    )

    def unit(b: int) -> tuple[Tensor, Tensor, Tensor]:
        """Reference block b against all samples: balls' samples [ROWS, H], recalled [ROWS, H], precise [H, M]."""
        rows = real.block(b)
        samples_in_ball = torch.zeros(len(rows), len(ks), dtype=torch.int64, device=world.device)
        recalled = torch.zeros(len(rows), len(ks), dtype=torch.bool, device=world.device)
        precise = torch.zeros(len(ks), len(fake), dtype=torch.bool, device=world.device)
        for c in fake.blocks:
            columns = fake.span(c)
            squared = squared_distances(rows, fake.block(c))
            for h, neighbourhood in enumerate(neighbourhoods):
                balls = real_radii[h, real.span(b), None]
                in_real_ball = within(squared, balls, strict=neighbourhood.strict)
                in_fake_ball = within(squared, fake_radii[h, columns], strict=neighbourhood.strict)
                samples_in_ball[:, h] += in_real_ball.sum(dim=1)
                recalled[:, h] |= in_fake_ball.any(dim=1)
                precise[h, columns] = in_real_ball.any(dim=0)
        return padded(samples_in_ball), padded(recalled), precise

    counts, recalled, precise = spread(
        world, len(real.blocks), unit, label="precision and recall", progress=progress, heartbeat=heartbeat
    )
    # Padding is zeros, which count for nothing in a sum.
    return [
        Manifolds(
            precision=int(precise[:, h].any(dim=0).sum()) / len(fake),
            recall=int(recalled[..., h].sum()) / len(real),
            density=int(counts[..., h].sum()) / (k * len(fake)),
            coverage=int((counts[..., h] > 0).sum()) / len(real),
            reference_repeated=int((real_radii[h] == 0).sum()) / len(real),
            samples_repeated=int((fake_radii[h] == 0).sum()) / len(fake),
        )
        for h, k in enumerate(ks)
    ]
