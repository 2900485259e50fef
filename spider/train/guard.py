"""Steps whose loss or gradient is not finite: named, counted, and after too many in a row the end of the run."""

from __future__ import annotations

from typing import Any

from cluster.world import World
from spider.config.schema import GuardConfig
from spider.errors import SpiderError
from spider.gan.method import Method


class Guard(Method):
    """Counts skipped steps. The same on every rank."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.skipped = 0  # in the whole run
        self._in_a_row: dict[str, int] = {}  # by phase: one player may be dead while the other trains

    def passed(self, phase: str) -> None:
        """A step of this phase went well."""
        self._in_a_row[phase] = 0

    def skip(self, phase: str, terms: list[str], gradients: dict[str, list[int]], images: int, world: World) -> str:
        """A step was skipped. The host learns it at the end of the iteration.

        Args:
            phase: whose it was.
            terms: the terms of the loss that were not finite on this rank.
            gradients: the gradients that were not, each with the ranks that it came from.
            images: the clock.
            world: the ranks, which all call this.

        Returns:
            One line that names phase, tensors and ranks.

        Raises:
            SpiderError: that line, when more than `guard.max_skipped` steps of the phase in a row were skipped.
        """
        self.skipped += 1
        in_a_row = self._in_a_row[phase] = self._in_a_row.get(phase, 0) + 1
        found = {r: names for r, names in enumerate(world.all_gather_json(terms)) if names}
        if not found:  # then it came about in a backward
            found = {r: [name for name, at in gradients.items() if r in at] for r in range(world.size)}
        where = "; ".join(f"{', '.join(names[:3])} on rank {r}" for r, names in found.items() if names)
        line = f"phase {phase} at {images / 1000:g} kimg: not finite: {where or 'a sum over ranks'}"
        if in_a_row > self.config.max_skipped:
            raise SpiderError(
                f"{line}; {in_a_row} steps of it in a row were skipped (guard.max_skipped={self.config.max_skipped})"
            )
        return line

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        return {"guard/skipped": self.skipped}

    def state(self) -> dict[str, Any]:
        """See Method."""
        return {"skipped": self.skipped, "in_a_row": dict(self._in_a_row)}

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        self.skipped, self._in_a_row = state["skipped"], dict(state["in_a_row"])
