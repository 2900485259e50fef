"""What a phase works on: one micro-batch of this rank's slots, and the address of its randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from spider.draws import Address
from spider.gan.method import Kept
from spider.gan.outputs import Condition

T = TypeVar("T")


@dataclass(frozen=True)
class PhaseBatch:
    """What a phase drew, once, for one micro-batch of this rank's slots."""

    at: Address
    images: int  # on the clock
    source: Tensor  # [n, *source.shape]
    fake_condition: Condition  # of what the generator makes of `source`
    real_condition: Condition
    real: Tensor | None = None  # [n, C, H, W], -1 to 1
    fake: Tensor | None = None  # the generator's answer to `source`, where the phase takes it as given
    keep: Mapping[str, Kept] = field(default_factory=dict)  # by method: what making it gave to keep

    def split(self, parts: int) -> list[PhaseBatch]:
        """Micro-batches: slot s of the rank goes to micro-batch s mod `parts`."""
        return [self.part(slice(m, None, parts)) for m in range(parts)]

    def part(self, chosen: slice) -> PhaseBatch:
        """Some of the slots, before any pass."""
        return replace(
            self,
            at=replace(self.at, positions=self.at.positions[chosen]),
            source=self.source[chosen],
            fake_condition=self.fake_condition.part(chosen),
            real_condition=self.real_condition.part(chosen),
            real=None if self.real is None else self.real[chosen],
        )


def given(value: T | None) -> T:
    """What the plan promises to a phase: an earlier phase has drawn it, or this one."""
    if value is None:
        raise ValueError("a phase lacks what no phase before it has drawn or made")
    return value
