"""FDr: how many times as far from the reference the samples are as other real images are. 1 is as good as real.

    FDr = FD(n samples, reference) / FD(n other real images, reference)

(the ratio of the FD-loss authors' evaluation, with one embedding, which the label names). Both distances are of equally
many images, so that the bias of few images is in both; it still draws the ratio towards 1, so compare FDr only at equal
n. The other real images are the training images where these are not the reference; otherwise the reference is cut into
two halves at random, one stands for the reference, and the other for the other real images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spider import draws
from spider.errors import SpiderUsageError
from spider.judge.embed.cache import Features
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.frechet import law_distance, too_few_images
from spider.judge.metrics.jackknife import GROUPS, LEAST, dealt, jackknife_stderr
from spider.judge.metrics.law_parts import LawParts
from spider.judge.metrics.spread import spread

_FEWEST = 4  # images of a reference that is halved


@dataclass(frozen=True)
class RatioSets:
    """What FDr compares.

    Attributes:
        samples: float32 [n, d].
        reals: float32 [n, d], other real images.
        reference: float32 [M, d].
        held_out: what the other real images are.
    """

    samples: Features
    reals: Features
    reference: Features
    held_out: str

    @classmethod
    def of(cls, c: Comparison) -> RatioSets:
        """Drawn by the seed. Raises SpiderUsageError: a reference that is to be halved has fewer than 4 images."""
        if c.held_out is None:
            if len(c.reference) < _FEWEST:
                raise SpiderUsageError(
                    f"FDr needs at least {_FEWEST} reference images to halve, found {len(c.reference)}"
                )
            order = draws.generator(c.seed, "metrics.fdr.halves").permutation(len(c.reference))
            middle = len(order) // 2
            reals, reference, held_out = (
                c.reference[order[:middle]],
                c.reference[order[middle:]],
                "half of the reference",
            )
        else:
            reals, reference, held_out = c.learnt, c.held_out, "training images"
        n = min(len(c.samples), len(reals))
        return cls(_drawn(c.samples, n, c.seed, "samples"), _drawn(reals, n, c.seed, "reals"), reference, held_out)


def score_fdr(c: Comparison) -> Score:
    """See above. The standard error is over the images of all three sets. All ranks."""
    sets = RatioSets.of(c)
    ddof = c.protocol.ddof
    named = {"samples": sets.samples, "reals": sets.reals, "reference": sets.reference}
    samples, reals, reference = (
        LawParts(features, dealt(len(features), c.seed, f"fdr.{name}"), c.world, ddof, c.heartbeat)
        for name, features in named.items()
    )
    with_error = min(map(len, named.values())) >= LEAST

    def unit(u: int) -> tuple[Tensor]:
        """Both distances of all images, then those without each group."""
        laws = [part.whole if u == 0 else part.without(u - 1) for part in (samples, reals, reference)]
        return (torch.tensor([law_distance(law, laws[2]) for law in laws[:2]], dtype=torch.float64),)

    (distances,) = spread(
        c.world, 1 + GROUPS if with_error else 1, unit, label="fdr", progress=c.progress, heartbeat=c.heartbeat
    )
    ratios = [above / below if below > 0 else math.nan for above, below in distances.tolist()]
    n, dim = sets.samples.shape
    biased = too_few_images(min(n, len(sets.reference)), dim)
    undefined = "undefined: to the embedding, the held-out images are the reference"
    return Score(
        ratios[0],
        stderr=jackknife_stderr(ratios[1:]) if with_error else None,
        protocol={
            "ddof": ddof,
            "held_out": sets.held_out,
            "images": n,
            "reference_images": len(sets.reference),
            "groups": GROUPS,
        },
        warnings=[undefined] if math.isnan(ratios[0]) else [f"of both distances: {biased}"] if biased else [],
        details={"samples": float(distances[0, 0]), "held_out": float(distances[0, 1])},
    )


def _drawn(features: Features, n: int, seed: int, which: str) -> Features:
    """`n` of the images, drawn at random; all of them in their order where there are no more."""
    if n == len(features):
        return features
    drawn: Features = features[draws.generator(seed, f"metrics.fdr.{which}").permutation(len(features))[:n]]
    return drawn
