"""Images of a neighbour dataset, with noise added: the source of a Spider GAN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.order import Slots, order
from shards.stream import BatchStream
from spider import draws
from spider.data import open_images
from spider.gan.pixels import to_float
from spider.gan.sources.ahead import ahead
from spider.gan.sources.config import ImagesConfig
from spider.gan.sources.image_source import ImageSource


class Images(ImageSource):
    """A neighbour's images at the target's size and channels, plus noise.

    Training reads every image once per epoch. Evaluation input i is image number i of one permutation by the evaluation
    seed, which starts over after the last. The default noise is that of the authors' run names (`gaussian025`: standard
    deviation 0.25).
    """

    def __init__(self, config: ImagesConfig, target_shape: tuple[int, int, int], device: torch.device) -> None:
        self.dataset = open_images(config.path)
        super().__init__(config, self.dataset.index.shape, target_shape, "source", device)
        self.config = config

    def images_at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """See ImageSource."""
        count = len(self.dataset)
        eval_seed = draws.torch_seed(seed, "eval.source")
        permutation = order("full", seed=eval_seed, count=count, global_batch=1, start=0, stop=count)
        images, _ = self.dataset.read_batch(permutation[np.asarray(indices) % count])
        return self._prepare(torch.from_numpy(images))

    def feed(self, seed: int, slots: Slots, position: int) -> Iterator[Tensor]:
        """See Source. On the source's device."""
        stream = BatchStream(
            self.dataset,
            seed=draws.torch_seed(seed, "train.source"),
            global_batch=slots.batch,
            rank=slots.rank,
            world=slots.world,
            order=self.config.order,
            workers=self.config.workers,
            pin=self.device.type == "cuda",
        )
        batches, noises = stream.batches(position), self._noises(seed, slots, position)
        return ahead(self._prepare(batch.images) + noise for batch, noise in zip(batches, noises, strict=False))

    @property
    def identity(self) -> str:
        """See Source."""
        said = f"images {self.dataset.fingerprint} noise {self.noise_std} shape {self.shape} order {self.config.order}"
        return said + self.adapter_identity

    def provenance(self) -> dict[str, Any]:
        """See Source."""
        return {**self.config.model_dump(), "fingerprint": self.dataset.fingerprint, "images": len(self.dataset)}

    def _prepare(self, images: Tensor) -> Tensor:
        return self.fitted(to_float(images.to(self.device, non_blocking=True)))
