"""Does the generator repeat its training images? Its samples' nearest training images, with a scale to judge them by.

A distance alone says nothing. So the same distance is taken for images that are no copies: held-out ones, or the
training images themselves, each without itself. If the samples follow the law of the training images, both sets of
distances follow one law too; copies are nearer.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spider import draws
from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.distances import Nearest, centre_of, nearest
from untrusted.counts import counted

if TYPE_CHECKING:
    from cluster.world import World

FEW_IMAGES = 5000  # training images, below which a generator may well learn them by heart
MOST_UNSEEN = 10_000  # images that give the scale
_RARE = 1e-3
_TAIL_TOLD = 200
_MOSTLY = 0.99  # of a set that are copies of training images, from which on it holds nothing out
_ROUNDED = 1e-3  # of how far images lie from their mean: less is one image, as two machines compute it
TAIL = 0.01  # share of unseen images that are nearer to a training image than `NearestTraining.tail`


@dataclass(frozen=True)
class NearestTraining:
    """The nearest training image of samples, and of images that are not copies.

    Attributes:
        samples: of each sample.
        scale: of the images that give the scale, at most MOST_UNSEEN.
        scale_images: their numbers in their set, int64.
        held_out: whether those are held-out images, or training images that each leave themselves out.
        copies: of those, how many are copies of a training image and thus left out; 0 where all are.
    """

    samples: Nearest
    scale: Nearest
    scale_images: NDArray[np.int64]
    held_out: bool
    copies: int = 0

    @property
    def unseen(self) -> NDArray[np.float64]:
        """How far images that are no copies are from the training images, float64."""
        return self.scale.distances

    @property
    def scale_name(self) -> str:
        """What the unseen images are."""
        return "held-out images" if self.held_out else "training images among themselves"

    @property
    def left_out(self) -> str | None:
        """Which images the scale does without, in a sentence."""
        if self.copies == 0:
            return None
        kind, other = ("held-out", "a training image") if self.held_out else ("training", "another one")
        of = f"{self.copies:,} of {counted(self.copies + len(self.unseen), f'{kind} image')}"
        return f"{of} {'is a copy' if self.copies == 1 else 'are copies'} of {other} and left out of the scale"

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
    def usual(self) -> float:
        """The share in the tail that one law gives."""
        return max(TAIL, 1 / len(self.unseen))

    @property
    def ahead(self) -> int:
        """How many samples are nearer to a training image than every unseen image is."""
        return int((self.samples.distances < self.unseen.min()).sum())

    @cached_property
    def chance_of_ahead(self) -> float:
        """About how probable it is that so many samples are ahead, and by so far, if all distances are of one law.

        The smaller of two probabilities. The first asks how many are ahead: the nearest of samples and unseen images
        together are then drawn without replacement. The second asks how far, as of the low tail of distances a power
        law (Hill 1975), whose exponent is taken two standard errors low. It needs `_TAIL_TOLD` unseen images.
        """
        samples = len(self.samples.distances)
        many = math.prod((samples - i) / (samples + self._told - i) for i in range(self.ahead))
        return min(many, self._chance_of_far()) if self.ahead > 0 else 1.0

    def _chance_of_far(self) -> float:
        from scipy.special import gammainc  # a quarter of a second, which trainings and dry runs need not wait

        unseen, near = np.sort(self.unseen), np.sort(self.samples.distances)[: self.ahead]
        tail = len(unseen) // 20
        if len(unseen) < _TAIL_TOLD:
            return 1.0
        exponent = 1 / max(_ROUNDED, float(np.log(unseen[tail] / unseen[:tail]).mean()))  # the distances may be tied
        exponent *= max(0.0, 1 - 2 / math.sqrt(tail * self._told / len(unseen)))
        expected = len(self.samples.distances) * tail / len(unseen) * (near / unseen[tail]) ** exponent
        at_least = gammainc(np.arange(1, len(near) + 1), expected)  # of Poisson's law, that many or more
        return min(1.0, len(near) * float(at_least.min()))

    @property
    def looks_copied(self) -> bool:
        """Whether chance does not explain what is near.

        Either samples are ahead as in fewer than one of 1,000 evaluations; or the share in the tail is four standard
        errors above what is usual, and at least twice that.
        """
        many = self.share_in_tail > max(2 * TAIL, self.usual + 4 * self.chance(self.usual))
        return many or self.chance_of_ahead < _RARE

    @property
    def nearer(self) -> NDArray[np.float64]:
        """For each sample, the share of unseen images that are nearer than it: evenly spread from 0 to 1 by one law."""
        return np.searchsorted(np.sort(self.unseen), self.samples.distances) / len(self.unseen)

    def chance(self, share: float) -> float:
        """The standard error of a share of the samples, where the distances that it hangs on are of unseen images."""
        return math.sqrt(share * (1 - share) * (1 / len(self.samples.distances) + 1 / self._told))

    @property
    def _told(self) -> float:
        """How many unseen images tell of the law: two training images that are each other's nearest count as one."""
        return len(self.unseen) / (1 if self.held_out else 2)


def page_name(embedding: str) -> str:
    """The file of the page to judge that by (`spider.judge.metrics.memorisation_page`), by an embedding's label.

    Pages under two embeddings show other distances and other pairs, so that none may take the place of the other.
    """
    return f"memorisation-{re.sub(r'[^A-Za-z0-9_.@]+', '-', embedding)}.png"


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
        held_out: float32 [K, d], images of the same kind that the generator was not trained on. If they turn out to be
            training images, in any order, the scale is as without them.
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
    from_centre = np.linalg.norm(pool[chosen] - centre_of(training), axis=1)
    kept = unseen.distances > _ROUNDED * float(np.median(from_centre))
    if held_out is not None and kept.mean() <= 1 - _MOSTLY:
        return nearest_training(samples, training, world, seed=seed, progress=progress, heartbeat=heartbeat)
    if not kept.any():
        return NearestTraining(found, unseen, chosen, held_out=False)
    scale = Nearest(unseen.distances[kept], unseen.indices[kept])
    return NearestTraining(found, scale, chosen[kept], held_out=held_out is not None, copies=int((~kept).sum()))
