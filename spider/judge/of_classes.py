"""A generator of classes that is judged by some of them only: samples of these, against the training images of these.

So a generator that learnt a target and its neighbour, a class each, is held against one that learnt the target alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shards.dataset import ShardDataset
from shards.joined import key_alone
from shards.samples import fingerprint, sample_digest
from spider.gan.conditions.conditions import Conditions
from spider.gan.sources.frozen import FrozenGenerator
from spider.judge.embed.images import ChosenImages


class ImagesOfClasses(ChosenImages):
    """The images of a packed set that are of some classes, in their order.

    Attributes:
        index: of the whole set.

    Args:
        labels: the class of every image, int64 [len(dataset)].
        classes: the chosen ones, by number.
        names: of all classes.
    """

    def __init__(
        self, dataset: ShardDataset, labels: NDArray[np.int64], classes: Sequence[int], names: Sequence[str]
    ) -> None:
        super().__init__(dataset)
        self.index, self.path = dataset.index, dataset.path
        self._dataset, self._labels, self._classes, self._names = dataset, labels, [*classes], [*names]
        self._chosen = [names[label] for label in classes]

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """See ChosenImages."""
        return np.flatnonzero(np.isin(self._labels, self._classes))

    @property
    def class_names(self) -> list[str]:
        """Of all classes."""
        return self._names

    def labels(self) -> NDArray[np.int64]:
        """The class of every chosen image."""
        chosen: NDArray[np.int64] = self._labels[self.numbers]
        return chosen

    @cached_property
    def fingerprint(self) -> str:
        """That of the set itself if all its images are chosen. Of one class: that of its images packed by themselves
        without labels, so that numbers against the same images are known to be so.
        """
        if len(self) == len(self._dataset):
            return self._dataset.fingerprint
        if len(self._chosen) > 1:
            return hashlib.sha256(f"{self._dataset.fingerprint} of classes {self._chosen}".encode()).hexdigest()
        read = map(self._dataset.read, map(int, self.numbers))
        return fingerprint([sample_digest(key_alone(key, self._chosen[0]), -1, pixels) for pixels, _, key in read])


def only_of(generator: FrozenGenerator, classes: Sequence[str]) -> FrozenGenerator:
    """The same generator, whose numbered images are of these classes only; without any, itself.

    Raises SpiderUsageError: it has no classes, or no such class.
    """
    return generator.with_conditions(generator.conditions.among(classes)) if classes else generator


def training_of(conditions: Conditions, dataset: ShardDataset) -> ShardDataset | ImagesOfClasses:
    """The images of a set that are of the classes that numbered samples are of."""
    if not conditions.only:
        return dataset
    chosen = [conditions.class_number(name) for name in conditions.only]
    return ImagesOfClasses(dataset, conditions.classes_of(dataset), chosen, conditions.names)
