"""Images that a frozen generator makes: a cascade."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from torch import Tensor

from shards.order import Slots
from spider.gan.sources.ahead import ahead
from spider.gan.sources.config import GeneratorConfig
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.image_source import ImageSource


class Generator(ImageSource):
    """G1(s) at the target's size and channels, plus noise; s from the source that G1 was trained on. Any depth.

    Where G1 was told classes, each input has one, drawn apart from the target's.
    """

    def __init__(self, config: GeneratorConfig, stage: FrozenGenerator, target_shape: tuple[int, int, int]) -> None:
        self.depth: int = 1 + getattr(stage.source, "depth", 0)
        super().__init__(config, stage.image_shape, target_shape, f"cascade{self.depth}", stage.device)
        self.config = config
        self.stage = stage
        stage.shares_draws = config.stage_noise == "const"
        if config.truncation != 1:
            stage.truncate(config.truncation, "source.truncation=")

    def images_at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """See ImageSource."""
        return self.fitted(self.stage.images(seed, indices))

    def feed(self, seed: int, slots: Slots, position: int) -> Iterator[Tensor]:
        """See Source. On the stage's device."""
        stage, stream = self.stage, f"train.source.condition{self.depth}"
        places = (slots.at(start) for start in count(position, slots.batch))
        told = (
            stage.with_draws(stage.conditions.drawn(seed, stream, at, stage.device), seed, at, "train.source")
            for at in places
        )
        inputs, noises = stage.source.feed(seed, slots, position), ahead(self._noises(seed, slots, position))
        return (
            self.fitted(stage(each, condition)) + noise
            for each, condition, noise in zip(inputs, told, noises, strict=False)
        )

    @property
    def identity(self) -> str:
        """See Source."""
        parts = [f"generator {self.stage.digest} noise {self.noise_std} shape {self.shape}{self.adapter_identity}"]
        parts += [f"truncation {self.config.truncation}"] if self.config.truncation != 1 else []
        parts += ["draws shared"] if self.stage.shares_draws else []
        return " ".join(parts)

    def provenance(self) -> dict[str, Any]:
        """See Source."""
        return {**self.config.model_dump(), "stage": self.stage.provenance()}
