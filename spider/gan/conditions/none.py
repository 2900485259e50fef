"""No condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.dataset import ShardDataset
from shards.order import Order
from shards.stream import Batch, Reading
from spider.errors import SpiderUsageError
from spider.gan.outputs import Condition, ConditionShape


class NoConditions:
    """The players are told nothing. See Conditions."""

    def __init__(self) -> None:
        self.shape = ConditionShape()
        self.paired = False
        self.names: list[str] = []
        self.present: list[int] = []
        self.remarks: list[str] = []
        self.identity = ""

    def order(self, dataset: ShardDataset, kind: Order, seed: int, global_batch: int) -> Order | Reading:
        """All images."""
        return kind

    def classes_of(self, dataset: ShardDataset) -> NDArray[np.int64]:
        """None has one."""
        return np.full(len(dataset), -1)

    def of_reals(self, batch: Batch, device: torch.device) -> Condition:
        """Empty."""
        return Condition()

    def drawn(self, seed: int, stream: str, indices: Sequence[int], device: torch.device) -> Condition:
        """Empty."""
        return Condition()

    def at(self, seed: int, indices: Sequence[int], device: torch.device) -> Condition:
        """Empty."""
        return Condition()

    def class_number(self, name: str) -> int:
        """Raises SpiderUsageError: there is none."""
        raise SpiderUsageError(f"class {name}: the generator was trained without classes (condition.kind=none)")

    def state(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Empty."""
        return {}
