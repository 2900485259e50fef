"""What a method remembers between iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What the passes of an iteration reported, by name: (sum, count) over the global batch, of the steps that were taken
Sums = Mapping[str, tuple[float, float]]


class Method:
    """Updated from the global batch, the same on every rank, saved with the run. By default it remembers nothing."""

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """An iteration is over.

        Args:
            step: its number, from 0.
            images: the clock now.
            sums: what its passes reported.
        """

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""

    def columns(self, images: int) -> dict[str, float | None]:
        """What a row of metrics.jsonl says of it when the clock stands at `images`."""
        return {}
