"""What every choice of a condition is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.dataset import ShardDataset
from shards.order import Order
from shards.stream import Batch, Reading
from spider.gan.outputs import Condition, ConditionShape


class Conditions(Protocol):
    """Where the conditions of real images, of generated ones and of numbered samples come from.

    Attributes:
        shape: what networks are built for.
        paired: whether generated images take the conditions of the real ones in the same slots.
        names: of the classes by number; empty if there are none.
        present: the classes that training images have.
        remarks: what the person who trains should know, a line each.
    """

    shape: ConditionShape
    paired: bool
    names: list[str]
    present: list[int]
    remarks: list[str]

    def order(self, dataset: ShardDataset, kind: Order, seed: int, global_batch: int) -> Order | Reading:
        """Which real images a training reads, and when."""

    def classes_of(self, dataset: ShardDataset) -> NDArray[np.int64]:
        """The class of every image of the dataset, int64 [len], -1 where it has none."""

    def of_reals(self, batch: Batch, device: torch.device) -> Condition:
        """The conditions of real images that were read.

        An image may be read for the sake of another one, which follows from where the order put it (`batch.positions`).
        """

    def drawn(self, seed: int, stream: str, indices: Sequence[int], device: torch.device) -> Condition:
        """Conditions for generated images in training, at addresses of `spider.draws`."""

    def at(self, seed: int, indices: Sequence[int], device: torch.device) -> Condition:
        """The conditions of samples number `indices` under an evaluation seed: always the same ones."""

    def class_number(self, name: str) -> int:
        """The class of that name, or else of that number. Raises SpiderUsageError."""

    @property
    def identity(self) -> str:
        """Equal identities give equal conditions. One line of text; empty where there is no condition."""

    def state(self) -> dict[str, Any]:
        """What a finished generator must know when the data is gone, as JSON."""

    def tensors(self) -> dict[str, Tensor]:
        """What it must know as tensors, by name: always the same ones.

        They are saved with the run, and a resumed run takes over those that were saved. The digest of a generator
        covers them.
        """
