"""What every choice of a condition is. By default the players are told nothing (condition.kind=none)."""

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
from spider.gan.method import Method
from spider.gan.outputs import UNCONDITIONAL, Condition, ConditionShape


class Conditions(Method):
    """Where the conditions of real images, of generated ones and of numbered samples come from.

    Attributes:
        shape: what networks are built for.
        paired: whether generated images take the conditions of the real ones in the same slots.
        names: of the classes by number; empty if there are none.
        counts: training images of each class.
        present: the classes that training images have.
        only: names of the classes that numbered samples are of; empty: of all.
        alike: whether numbered samples are of all classes alike.
        remarks: what the person who trains should know, a line each.
        identity: equal identities give equal conditions. One line of text; empty where there is no condition.
    """

    shape: ConditionShape = UNCONDITIONAL
    paired: bool = False
    names: Sequence[str] = ()
    counts: Sequence[int] = ()
    present: Sequence[int] = ()
    only: Sequence[str] = ()
    alike: bool = False
    remarks: Sequence[str] = ()

    @property
    def rebalanced(self) -> bool:
        """Whether numbered samples are of all classes alike where the training images are not."""
        chosen = [label for label in self.present if not self.only or self.names[label] in self.only]
        return self.alike and len({self.counts[label] for label in chosen}) > 1

    @property
    def identity(self) -> str:
        """See Conditions."""
        return ""

    def order(self, dataset: ShardDataset, kind: Order, seed: int, global_batch: int) -> Order | Reading:
        """Which real images a training reads, and when."""
        return kind

    def classes_of(self, dataset: ShardDataset) -> NDArray[np.int64]:
        """The class of every image of the dataset, int64 [len], -1 where it has none."""
        return np.full(len(dataset), -1)

    def of_reals(self, batch: Batch, device: torch.device) -> Condition:
        """The conditions of real images that were read.

        An image may be read for the sake of another one, which follows from where the order put it (`batch.positions`).
        """
        return Condition()

    def drawn(self, seed: int, stream: str, indices: Sequence[int], device: torch.device) -> Condition:
        """Conditions for generated images in training, at addresses of `spider.draws`."""
        return Condition()

    def at(self, seed: int, indices: Sequence[int], device: torch.device) -> Condition:
        """The conditions of samples number `indices` under an evaluation seed: always the same ones."""
        return Condition()

    def class_number(self, name: str) -> int:
        """The class of that name, or else of that number. Raises SpiderUsageError."""
        raise SpiderUsageError(f"class {name}: the generator was trained without classes (condition.kind=none)")

    def among(self, classes: Sequence[str]) -> Conditions:
        """The same, whose numbered samples are of these classes only, given by name or number.

        Raises SpiderUsageError: there are no classes, no such class, or no image that has it.
        """
        for name in classes:
            self.class_number(name)
        raise SpiderUsageError("samples of some classes only: for runs with classes")

    def with_classes_alike(self) -> Conditions:
        """The same, whose numbered samples are of all classes alike.

        Raises SpiderUsageError: there are no classes, or samples of one cannot be made.
        """
        raise SpiderUsageError("samples of all classes alike: for runs with classes")

    def state(self) -> dict[str, Any]:
        """What a finished generator must know when the data is gone, as JSON."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What it must know as tensors, by name: always the same ones.

        They are saved with the run, and a resumed run takes over those that were saved. The digest of a generator
        covers them.
        """
        return {}
