"""What every augmentation is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from spider.method import Method


class Draws(Protocol):
    """Random numbers for the images of a batch, by use; see `spider.train.batch.Address`."""

    def normal(self, use: str, shape: tuple[int, ...], *, host: bool = False) -> Tensor:
        """Standard normal draws, float32 [N, *shape]; on the CPU if `host`, else on the images' device."""

    def uniform(self, use: str, shape: tuple[int, ...], *, host: bool = False) -> Tensor:
        """Uniform draws in [0, 1), as above."""


class Augmentation(Method, ABC):
    """Changes images, differentiably as often as asked for."""

    @abstractmethod
    def __call__(self, images: Tensor, draws: Draws, use: str) -> Tensor:
        """Images [N, C, H, W], about -1 to 1, to images of the same shape.

        Args:
            draws: of these images.
            use: names the images' use within the phase: two uses of one phase draw different numbers.
        """
