"""What every source is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from shards.order import Slots


class Frontend(nn.Module):
    """Turns drawn inputs into what the generator's first layer takes, and trains with the generator."""

    shape: tuple[int, ...]  # of one output

    def penalty(self) -> Tensor | None:
        """What is added to the generator's loss, a scalar; None: nothing."""
        return None


class Source(Protocol):
    """Numbered inputs for a generator. The input at (seed, index) is always the same one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input as drawn: (dim,) for a vector, (C, H, W) for an image in [-1, 1] (plus noise)."""

    def at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """Inputs for evaluation and for looking at, float32 [len(indices), *shape]."""

    def feed(self, seed: int, slots: Slots, position: int) -> Iterator[Tensor]:
        """Inputs for training without end: this rank's slots of the batch at `position`, then of the next, ..."""

    def frontend(self) -> Frontend | None:
        """What trains with the generator between the drawn input and its first layer; None for most."""

    @property
    def identity(self) -> str:
        """Equal identities give equal inputs, wherever the files lie. One line of text."""

    def provenance(self) -> dict[str, Any]:
        """What a result that used this source must state."""
