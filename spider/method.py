"""What a method remembers between iterations."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Method:
    """Updated from the global batch, the same on every rank, saved with the run. By default it remembers nothing."""

    def iterated(self, step: int, images: int, sums: dict[str, Tensor]) -> None:
        """An iteration is over.

        Args:
            step: its number, from 0.
            images: the clock now.
            sums: what its passes reported, by name: float64 [sum, count] over the global batch. They stay on their
                device, which is not waited for.
        """

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""

    def columns(self, images: int) -> dict[str, float | None]:
        """What a row of metrics.jsonl says of it when the clock stands at `images`."""
        return {}
