"""What networks are told and return. Fields are added as networks need them; the trainer reads only these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ConditionShape:
    """What a network is told of every image: what it is built for."""

    classes: int = 0  # labels are 0 .. classes - 1; 0: it is told no class


UNCONDITIONAL = ConditionShape()


@dataclass(frozen=True)
class Condition:
    """What travels with every batch of images. None: the network is not told."""

    labels: Tensor | None = None  # int64 [N]; or float [N, classes], the share of each class, for what lies between

    def part(self, m: int, parts: int) -> Condition:
        """Of the images m, m + parts, m + 2 parts, ..."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Condition(**{name: None if value is None else value[m::parts] for name, value in values.items()})


@dataclass(frozen=True)
class GOut:
    """A generator's output."""

    images: Tensor  # [N, C, H, W], -1 to 1


@dataclass(frozen=True)
class DOut:
    """A discriminator's output. High is real."""

    logits: Tensor  # [N, P]: P judgements of every image
    features: Tensor | None = None  # [N, F]: what its last layer is given, where the network tells

    def each(self, change: Callable[[Tensor], Tensor]) -> DOut:
        """The same, of which every tensor is changed."""
        changed: dict[str, Any] = {name: change(value) for name, value in vars(self).items() if value is not None}
        return DOut(**changed)
