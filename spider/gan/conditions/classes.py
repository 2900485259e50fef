"""A class for every image: a whole number, of which index.json of the training images has the names."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from shards.balance import BalancedOrder, quotas
from shards.dataset import ShardDataset
from shards.order import Indices, Order
from shards.stream import Batch, Reading, reading
from spider import draws
from spider.errors import SpiderUsageError
from spider.gan.conditions.conditions import Conditions
from spider.gan.conditions.config import ClassConditionConfig
from spider.gan.outputs import Condition, ConditionShape
from untrusted.typed import checked
from untrusted.words import did_you_mean

UNLABELLED = "(unlabelled)"  # the name of the class of images without a label
_SHOWN = 8  # names in an error


class ClassState(TypedDict):
    """What checkpoints hold: the classes' names and how many training images each has."""

    names: list[str]
    counts: list[int]


class Classes(Conditions):
    """See Conditions. A class that no image has is known by its number, and never drawn.

    Args:
        names: of the classes, by number.
        counts: training images of each.
        paired: whether generated images take the classes of the real ones.
        unlabelled: images without a label; what became of them, the settings say.
    """

    def __init__(
        self, config: ClassConditionConfig, names: list[str], counts: list[int], *, paired: bool, unlabelled: int = 0
    ) -> None:
        self.config = config
        self.names = names
        self.counts = counts
        self.paired = paired
        self.shape = ConditionShape(classes=len(names), names=tuple(names))
        as_read = counts if config.sampler == "data" else quotas(counts, config.temperature).tolist()
        alike = [min(count, 1) for count in counts]
        self._drawn = Law(alike if config.fakes == "uniform" else as_read)
        self.alike = config.samples == "uniform"
        self._numbered = Law(alike if self.alike else counts)
        self.present = [label for label, count in enumerate(counts) if count]
        self.remarks = [_remark(config, unlabelled, sum(counts))] if unlabelled else []

    @classmethod
    def of(cls, config: ClassConditionConfig, dataset: ShardDataset, *, paired: bool) -> Self:
        """The classes of a dataset.

        Raises:
            SpiderUsageError: it has none, or images without a label that the settings refuse.
        """
        names, labels = dataset.index.classes, dataset.labels()
        if not names or labels.max() < 0:
            kind = "vectors for labels" if dataset.index.vectors is not None else "no labels"
            raise SpiderUsageError(
                f"condition.kind=class: {dataset.path} has {kind}; pack images in class folders, or with a dataset.json"
            )
        unlabelled = int((labels < 0).sum())
        if unlabelled and config.unlabelled == "refuse":
            raise SpiderUsageError(
                f"condition.unlabelled=refuse: {unlabelled:,} of {len(labels):,} images of {dataset.path} have no "
                "label; condition.unlabelled=skip leaves them out, own_class makes a class of them"
            )
        counts = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
        if unlabelled and config.unlabelled == "own_class":
            names, counts = [*names, UNLABELLED], [*counts, unlabelled]
        return cls(config, list(names), counts, paired=paired, unlabelled=unlabelled)

    @classmethod
    def of_state(cls, config: ClassConditionConfig, state: Any) -> Self:
        """The classes that a checkpoint tells of. Raises UnreadableError, or ValueError if it is no such state."""
        known = checked(state, ClassState, "condition")
        names, counts = known["names"], known["counts"]
        if len(names) != len(counts) or min(counts, default=-1) < 0 or not sum(counts):
            raise ValueError(f"condition: {len(names)} names and the counts {counts} are of no training")
        return cls(config, names, counts, paired=False)

    def order(self, dataset: ShardDataset, kind: Order, seed: int, global_batch: int) -> Order | Reading:
        """The images that have a class, each once per epoch or as the balance says."""
        labels = self.classes_of(dataset)
        if self.config.sampler == "balanced":
            return BalancedOrder(labels, seed=seed, temperature=self.config.temperature)
        labelled: Indices = np.flatnonzero(labels >= 0)
        return kind if len(labelled) == len(labels) else reading(dataset, kind, seed, global_batch, labelled)

    def classes_of(self, dataset: ShardDataset) -> NDArray[np.int64]:
        """See Conditions."""
        labels: NDArray[np.int64] = self.told(torch.from_numpy(dataset.labels())).numpy()
        return labels

    def of_reals(self, batch: Batch, device: torch.device) -> Condition:
        """Their labels."""
        return Condition(self.told(batch.labels.to(device, non_blocking=True)))

    def drawn(self, seed: int, stream: str, indices: Sequence[int], device: torch.device) -> Condition:
        """Each by itself, in the shares that the settings say."""
        return Condition(self._drawn(seed, stream, indices, device))

    def at(self, seed: int, indices: Sequence[int], device: torch.device) -> Condition:
        """See Conditions."""
        return Condition(self._numbered(seed, "eval.condition", indices, device))

    def class_number(self, name: str) -> int:
        """See Conditions."""
        return class_of_name(name, self.names)

    def among(self, classes: Sequence[str]) -> Classes:
        """See Conditions. In the shares that these classes have among themselves."""
        chosen = sorted({self.class_number(name) for name in classes})
        for label in chosen:
            if label not in self.present:
                raise SpiderUsageError(f"class {self.names[label]}: no training image has it")
        among = copy.copy(self)
        among.only = [self.names[label] for label in chosen]
        among._numbered = Law([share if n in chosen else 0 for n, share in enumerate(self._numbered.shares)])
        return among

    def with_classes_alike(self) -> Classes:
        """See Conditions."""
        balanced = copy.copy(self)
        balanced.alike = True
        balanced._numbered = Law([min(share, 1) for share in self._numbered.shares])
        return balanced

    @property
    def identity(self) -> str:
        """See Conditions."""
        told = json.dumps([self.names, self._numbered.shares, self._drawn.shares])
        return f"class {hashlib.sha256(told.encode()).hexdigest()}"

    def state(self) -> dict[str, Any]:
        """A ClassState."""
        return {"names": self.names, "counts": self.counts}

    def told(self, labels: Tensor) -> Tensor:
        """The classes of images with these labels in the dataset, int64 [n]; -1: left out."""
        if self.config.unlabelled != "own_class":
            return labels
        return torch.where(labels < 0, len(self.names) - 1, labels)


def class_of_name(name: str, names: Sequence[str]) -> int:
    """The class of that name, or else of that number. Raises SpiderUsageError."""
    if name in names:
        return names.index(name)
    if name.isascii() and name.isdigit() and int(name) < len(names):
        return int(name)
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    raise SpiderUsageError(
        f"class {name!r} is unknown; known: {shown}, or a number from 0 to {len(names) - 1}{did_you_mean(name, names)}"
    )


class Law:
    """Classes drawn with the probabilities `shares` / sum: y where u, drawn below the sum, lies in the share of y."""

    def __init__(self, shares: list[int]) -> None:
        self.shares = shares
        self._ends: dict[torch.device, Tensor] = {}  # kept, because a copy to a device waits for it

    def __call__(self, seed: int, stream: str, indices: Sequence[int], device: torch.device) -> Tensor:
        if device not in self._ends:
            self._ends[device] = torch.tensor(self.shares, device=device).cumsum(0)
        drawn = draws.integers(seed, stream, indices, (), sum(self.shares), device)
        return torch.searchsorted(self._ends[device], drawn, right=True)


def _remark(config: ClassConditionConfig, unlabelled: int, used: int) -> str:
    if config.unlabelled == "skip":
        return f"condition.unlabelled=skip: {unlabelled:,} images have no label and are left out; {used:,} are learnt"
    return f"condition.unlabelled=own_class: {unlabelled:,} images have no label, and are the class {UNLABELLED}"
