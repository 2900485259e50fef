"""The Fréchet distance of each class by itself: a good mean may hide a rare class that was not learnt.

Or of strata of classes, by how many training images a class has: many, over 100; medium, 20 to 100; few, under 20. So
ImageNet-LT is measured (Liu et al. 2019; IC-GAN, Table 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.embed.images import NumberedImages, classes_of
from spider.judge.metrics.frechet import NormalLaw, law_distance
from spider.judge.metrics.moments import moments_of

if TYPE_CHECKING:
    from cluster.world import World

LEAST = 50  # images of a class in each set, to be measured
_MANY, _FEW = 100, 20  # training images of a class: over, and under
STRATA = (f"many (over {_MANY})", f"medium ({_FEW} to {_MANY})", f"few (under {_FEW})")


@dataclass(frozen=True)
class ClassPairs:
    """The classes of two sets, matched by their names.

    Attributes:
        names: of all classes of either set; of samples of some classes only, these.
        samples, reference: places in `names`, int64 [N] and [M]; -1: none.
        learnt: training images of each class, int64 [len(names)]; None: nobody knows.
    """

    names: list[str]
    samples: NDArray[np.int64]
    reference: NDArray[np.int64]
    learnt: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, samples: NumberedImages, count: int, reference: NumberedImages) -> ClassPairs:
        """Of the first `count` samples and all of the reference. Raises SpiderUsageError: one has no classes."""
        told = [classes_of(images) for images in (samples, reference)]
        require_classes({images.name: found.names for images, found in zip((samples, reference), told, strict=True)})
        only = getattr(samples, "only_classes", [])
        every = dict.fromkeys(name for found in told for name in found.names)
        names = [name for name in every if not only or name in only]
        number = {name: place for place, name in enumerate(names)}
        mine, theirs = (
            np.array([*(number.get(name, -1) for name in found.names), -1])[found.labels]  # the last one is that of -1
            for found in told
        )
        counts = getattr(samples, "class_counts", None)  # of a generator's
        learnt = None
        if counts is not None:
            known = dict(zip(told[0].names, counts, strict=True))
            learnt = np.array([known.get(name, 0) for name in names])
        return cls(names, mine[:count], theirs, learnt)

    def strata(self) -> ClassPairs:
        """The same images, by how many training images their classes have. A class that was not learnt is in none.

        Raises SpiderUsageError: nobody knows how many.
        """
        if self.learnt is None:
            raise SpiderUsageError(
                "metric 'fid_strata' needs to know how many training images each class has: measure a run that was "
                "trained with classes"
            )
        of_class = np.select([self.learnt > _MANY, self.learnt >= _FEW, self.learnt > 0], [0, 1, 2], -1)
        of_class = np.append(of_class, -1)  # the last one is that of -1
        return ClassPairs(list(STRATA), of_class[self.samples], of_class[self.reference])


def require_classes(names: Mapping[str, Sequence[str]]) -> None:
    """Refuse sets without classes. Raises SpiderUsageError that says which."""
    for who, classes in names.items():
        if not classes:
            raise SpiderUsageError(f"a metric of classes needs classes, and {who} has none")


def distances_by_class(
    samples: Features, reference: Features, pairs: ClassPairs, world: World, *, ddof: int, heartbeat: Heartbeat = silent
) -> list[dict[str, Any]]:
    """{"class", "value", "samples", "reference"} of every class; value None where a set has fewer than `LEAST` of it.

    Collective. Value is the Fréchet distance, samples and reference are counts of images.
    """
    rows = []
    for number, name in enumerate(pairs.names):
        heartbeat()
        sets = samples[pairs.samples == number], reference[pairs.reference == number]
        value = None
        if min(map(len, sets)) >= LEAST:
            value = law_distance(*(_law(features, world, ddof, heartbeat) for features in sets))
        rows.append({"class": name, "value": value, "samples": len(sets[0]), "reference": len(sets[1])})
    return rows


def _law(features: Features, world: World, ddof: int, heartbeat: Heartbeat) -> NormalLaw:
    count, dim = features.shape
    if count <= dim:
        return NormalLaw.of_few(features, ddof)
    return NormalLaw.of(moments_of(features, world, heartbeat=heartbeat), ddof)
