"""What the priors share: a vector is a function of (seed, stream, index)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from torch import Tensor

from shards.order import Slots
from spider.gan.sources.ahead import ahead
from spider.gan.sources.config import SourceChoice
from spider.gan.sources.source import Frontend


class Prior(ABC):
    """A source of vectors. A subclass says how one is drawn."""

    def __init__(self, config: SourceChoice, shape: tuple[int, ...]) -> None:
        self.config = config
        self.shape = shape

    @abstractmethod
    def draw(self, seed: int, stream: str, indices: Sequence[int]) -> Tensor:
        """float32 [len(indices), *shape]."""

    def at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """See Source."""
        return self.draw(seed, "eval.source", indices)

    def feed(self, seed: int, slots: Slots, position: int) -> Iterator[Tensor]:
        """See Source."""
        return ahead(self.draw(seed, "train.source", slots.at(start)) for start in count(position, slots.batch))

    def frontend(self) -> Frontend | None:
        """See Source."""
        return None

    @property
    def identity(self) -> str:
        """See Source."""
        return self.config.model_dump_json()

    def provenance(self) -> dict[str, Any]:
        """See Source."""
        return self.config.model_dump()
