"""What features are extracted from: images that have numbers.

A packed dataset is one (`shards.dataset.ShardDataset`); so is a generator's sampler, whose image i is always the
same image. Metrics, neighbour search and the feature cache know nothing else about where images come from.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spider import draws
from spider.errors import SpiderUsageError


class NumberedImages(Protocol):
    """Images 0 .. len - 1, all of one shape, of which any consecutive run can be had again and is the same again."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def fingerprint(self) -> str:
        """Identifies the images and their order: equal fingerprints, equal images."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> Tensor:
        """Images start .. stop - 1 as uint8 [stop - start, C, H, W], C 1 or 3."""


@runtime_checkable
class LabelledImages(NumberedImages, Protocol):
    """Images that may have classes."""

    @property
    def class_names(self) -> list[str]:
        """Of the classes by number; empty if there are none."""

    def labels(self) -> NDArray[np.int64]:
        """The class of every image, int64 [len], -1 where there is none."""


@dataclass(frozen=True)
class ClassLabels:
    """The classes of some images: their names by number, and the number of every image, -1 where there is none."""

    names: list[str]
    labels: NDArray[np.int64]


def classes_of(images: NumberedImages) -> ClassLabels:
    """The classes of images; no names if they have none."""
    if not isinstance(images, LabelledImages) or not images.class_names:
        return ClassLabels([], np.full(len(images), -1))
    return ClassLabels(images.class_names, images.labels())


class ChosenImages(ABC):
    """Some of other images, in their order. Each kind has a fingerprint of its own."""

    def __init__(self, images: NumberedImages) -> None:
        self._images = images
        self.name = images.name

    @property
    @abstractmethod
    def numbers(self) -> NDArray[np.int64]:
        """Which, ascending."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def class_names(self) -> list[str]:
        """Of the images that these are chosen from."""
        return classes_of(self._images).names

    def labels(self) -> NDArray[np.int64]:
        """The class of every chosen image."""
        chosen: NDArray[np.int64] = classes_of(self._images).labels[self.numbers]
        return chosen

    def close(self) -> None:
        """Close the files of the images that these are chosen from, if they have any."""
        close_files(self._images)

    def batch(self, start: int, stop: int) -> Tensor:
        """Chosen images start .. stop - 1 as uint8 [stop - start, C, H, W]."""
        return torch.cat([self._images.batch(i, i + 1) for i in map(int, self.numbers[start:stop])])


class DrawnImages(ChosenImages):
    """`count` of the images, drawn by `seed` without replacement, in their order. The same draw is the same images."""

    def __init__(self, images: NumberedImages, count: int, seed: int) -> None:
        if not 0 < count <= len(images):
            raise SpiderUsageError(f"{images.name}: cannot draw {count} of {len(images)} images")
        super().__init__(images)
        self._count, self._seed = count, seed
        self.fingerprint = hashlib.sha256(f"{images.fingerprint} drawn {count} seed {seed}".encode()).hexdigest()

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "numbers"}  # which are drawn again

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """See ChosenImages."""
        rng = draws.generator(self._seed, "embed.drawn")
        return np.sort(rng.permutation(len(self._images))[: self._count])


class FlippedImages:
    """The same images, flipped left to right."""

    def __init__(self, images: NumberedImages) -> None:
        self._images = images
        self.name = images.name
        self.fingerprint = hashlib.sha256(f"{images.fingerprint} flipped".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def close(self) -> None:
        """Close the files of the images, if they have any."""
        close_files(self._images)

    def batch(self, start: int, stop: int) -> Tensor:
        """Images start .. stop - 1 as uint8 [stop - start, C, H, W]."""
        return self._images.batch(start, stop).flip(3)


def require_pixels(images: Tensor) -> None:
    """Raises SpiderUsageError unless `images` are uint8 [N, 1 or 3, H, W], as every embedding takes them."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise SpiderUsageError(f"images must be uint8 [N, 1 or 3, H, W]; found {images.dtype} {list(images.shape)}")


def close_files(images: NumberedImages) -> None:
    """Close what reading images has opened; reading again opens it again. Images without files stay as they are."""
    close = getattr(images, "close", None)
    if close is not None:
        close()


def has_colour(images: NumberedImages, sample: int = 64) -> bool:
    """Whether any of `sample` images, spread over the set, has three channels that differ."""
    spread = np.unique(np.linspace(0, len(images) - 1, sample).astype(int)).tolist()
    pictures = [images.batch(i, i + 1) for i in spread]
    return any(picture.shape[1] == 3 and bool((picture != picture[:, :1]).any()) for picture in pictures)
