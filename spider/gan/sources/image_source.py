"""What the sources of images share: a size and channels, noise on top, and an adapter where one is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from shards.order import Slots
from spider import draws
from spider.gan.pixels import match_channels, resize
from spider.gan.sources.adapters import build_adapter
from spider.gan.sources.config import ImageSourceChoice
from spider.gan.sources.source import Frontend


class ImageSource(ABC):
    """x + noise_std eps. Noise is N(0, 1) per value, addressed by `stream`, which no other source of the run uses.

    Images come at the target's size and channels; before an adapter at their own.
    """

    def __init__(
        self,
        config: ImageSourceChoice,
        own_shape: tuple[int, int, int],
        target_shape: tuple[int, int, int],
        stream: str,
        device: torch.device,
    ) -> None:
        self.shape = target_shape if config.adapter is None else own_shape
        self.adapter = config.adapter
        self.noise_std = config.noise_std
        self.stream = stream
        self.device = device

    @abstractmethod
    def images_at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """The inputs of `at` before noise was added, which is what to show beside an output."""

    def at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """See Source. On the source's device."""
        return self.images_at(seed, indices) + self.noise_at(seed, indices)

    def noise_at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """What `at` adds to `images_at`, float32 [len(indices), *shape]."""
        return self._noise(seed, "eval", indices)

    def frontend(self) -> Frontend | None:
        """See Source: the adapter."""
        return None if self.adapter is None else build_adapter(self.adapter, self.shape)

    def fitted(self, images: Tensor) -> Tensor:
        """Float [N, c, h, w] of any size, -1 to 1, to float32 [N, *shape]."""
        channels, height, width = self.shape
        # Fewer channels before the resize, more after it: so the resize has the least to do
        images = match_channels(images.to(torch.float32), min(channels, images.shape[1]))
        return match_channels(resize(images, height, width), channels).contiguous()

    @property
    def adapter_identity(self) -> str:
        """What a source's identity says of its adapter."""
        return "" if self.adapter is None else f" adapter {self.adapter}"

    def _noises(self, seed: int, slots: Slots, position: int) -> Iterator[Tensor]:
        """What training adds to this rank's slots of the batch at `position`, of the next, ..., without end."""
        for start in count(position, slots.batch):
            yield self._noise(seed, "train", slots.at(start))

    def _noise(self, seed: int, use: str, indices: Sequence[int]) -> Tensor:
        if self.noise_std == 0:
            return torch.zeros(len(indices), *self.shape, device=self.device)
        noise = draws.normal(seed, f"{use}.{self.stream}.noise", indices, self.shape, self.device)
        return noise.mul_(self.noise_std)
