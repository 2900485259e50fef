"""What a method remembers between iterations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

# What the passes of an iteration reported, by name: (sum, count) over the global batch, of the steps that were taken
Sums = Mapping[str, tuple[float, float]]
# What the passes of a step kept for a method, by name: values of the images of the global batch, [N, ...], by slot
Kept = Mapping[str, Tensor]


class Method:
    """Updated from the global batch, the same on every rank, saved with the run. By default it remembers nothing.

    What is known only to the device moves in `stepped`, after each step; what the host knows, in `iterated`. A network
    may be a method as well: it moves its own buffers, which it lists in `touched` and which are saved with it.
    """

    phases: Collection[str] | None = None  # after whose steps `stepped` is called; None: all

    def stepped(self, phase: str, kept: Kept) -> None:
        """A step of a phase was made. What changes here is taken back if the step was not taken.

        A class that does not override this is told of no step.

        Only `tensors` and `touched` may change here, in place, and nothing may wait for the device.

        Args:
            phase: its name.
            kept: what its passes kept for this method, without a graph; empty if nothing, as after a step on real
                images alone.
        """

    def tensors(self) -> dict[str, Tensor]:
        """What is remembered as tensors, by name: always the same ones. Saved with the run."""
        return {}

    def touched(self) -> Sequence[Tensor]:
        """What else `stepped` changes, such as a player's parameters that are projected: always the same ones."""
        return ()

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
