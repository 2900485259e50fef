"""Does the generator repeat its training images? Its samples' nearest training images, with a scale to judge them by.

A distance alone says nothing. So the same distance is taken for images that are no copies: held-out ones, or the
training images themselves, each without itself. If the samples follow the law of the training images, both sets of
distances follow one law too; copies are nearer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spider import draws
from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.distances import Nearest, nearest

if TYPE_CHECKING:
    from cluster.world import World

MOST_UNSEEN = 10_000  # images that give the scale
TAIL = 0.01  # share of unseen images that are nearer to a training image than `NearestTraining.tail`


@dataclass(frozen=True)
class NearestTraining:
    """The nearest training image of samples, and of images that are not copies.

    Attributes:
        samples: of each sample.
        unseen: distances of the images that give the scale, float64 [at most MOST_UNSEEN].
        held_out: whether those are held-out images, or training images that each leave themselves out.
    """

    samples: Nearest
    unseen: NDArray[np.float64]
    held_out: bool

    @property
    def scale(self) -> str:
        """What the unseen images are."""
        return "held-out images" if self.held_out else "training images among themselves"

    @property
    def ratio(self) -> float:
        """Median distance of the samples over that of unseen images: 1 is what one law gives, 0 is copies."""
        unseen = float(np.median(self.unseen))
        return float(np.median(self.samples.distances)) / unseen if unseen > 0 else float("nan")

    @property
    def tail(self) -> float:
        """The distance that a share `TAIL` of unseen images is below."""
        return float(np.quantile(self.unseen, TAIL))

    @property
    def share_in_tail(self) -> float:
        """Share of samples below it: `TAIL` is what one law gives, more is copies."""
        return float((self.samples.distances < self.tail).mean())

    @property
    def looks_copied(self) -> bool:
        """Whether that share is more than chance explains (four standard errors), and at least twice what is usual."""
        usual = max(TAIL, 1 / len(self.unseen))
        # Two training images that are each other's nearest have one distance, so the tail has half as many of its own.
        stderr = math.sqrt(usual / len(self.samples.distances) + 2 * usual / len(self.unseen))
        return self.share_in_tail > max(2 * TAIL, usual + 4 * stderr)


def nearest_training(
    samples: Features,
    training: Features,
    world: World,
    *,
    held_out: Features | None = None,
    seed: int = 0,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> NearestTraining:
    """Compare samples float32 [N, d] with training images float32 [M, d], M at least 2.

    Args:
        held_out: float32 [K, d], images of the same kind that the generator was not trained on.
        seed: draws the images for the scale where there are more than `MOST_UNSEEN`.
    """
    if len(training) < 2:
        raise SpiderUsageError(f"nearest training images need at least 2 training images, found {len(training)}")
    pool = training if held_out is None else held_out
    rng = draws.generator(seed, "metrics.nearest")
    chosen = np.sort(rng.choice(len(pool), min(len(pool), MOST_UNSEEN), replace=False))
    found = nearest(samples, training, world, progress=progress, heartbeat=heartbeat)
    unseen = nearest(
        pool[chosen], training, world, but=chosen if held_out is None else None, progress=progress, heartbeat=heartbeat
    )
    return NearestTraining(found, unseen.distances, held_out=held_out is not None)
