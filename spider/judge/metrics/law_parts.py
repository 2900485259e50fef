"""The normal law of a set of features, and of it without a group of images, at little more than the price of one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.frechet import NormalLaw
from spider.judge.metrics.moments import moments_here, moments_of

if TYPE_CHECKING:
    from cluster.world import World


class LawParts:
    """Of features float32 [N, d] whose images are in groups, int64 [N].

    Sums of the whole set less those of a group are the sums of the rest, so that no image is multiplied twice. Sets of
    no more images than dimensions need no sums (`NormalLaw.of_few`).
    """

    def __init__(
        self, features: Features, groups: NDArray[np.int64], world: World, ddof: int, heartbeat: Heartbeat = silent
    ) -> None:
        """Sum the features. All ranks."""
        self._features = features
        self._groups = groups
        self._ddof = ddof
        self._device = world.device
        self._moments = moments_of(features, world, heartbeat=heartbeat) if self._is_many(len(features)) else None

    @cached_property
    def whole(self) -> NormalLaw:
        """The law of all images. Nothing here or below communicates."""
        if self._moments is None:
            return NormalLaw.of_few(self._features, self._ddof)
        return NormalLaw.of(self._moments, self._ddof)

    def without(self, group: int) -> NormalLaw:
        """The law of all images but a group's."""
        left_out = self._groups == group
        if self._moments is None or not self._is_many(int((~left_out).sum())):
            return NormalLaw.of_few(self._features[~left_out], self._ddof)
        part = moments_here(self._features[left_out], self._device)
        return NormalLaw.of(self._moments - part, self._ddof)

    def _is_many(self, count: int) -> bool:
        return bool(count > self._features.shape[1])


@dataclass(frozen=True)
class FixedLaw:
    """A law of images that are not at hand, so that none can be left out."""

    whole: NormalLaw

    def without(self, group: int) -> NormalLaw:
        """The law."""
        return self.whole


def law_here(features: Features, ddof: int, device: torch.device) -> NormalLaw:
    """The law of features float32 [N, d], by this rank alone."""
    if len(features) <= features.shape[1]:
        return NormalLaw.of_few(features, ddof)
    return NormalLaw.of(moments_here(features, device), ddof)
