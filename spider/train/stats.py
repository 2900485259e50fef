"""Numbers on their way to a row of metrics.jsonl: means over the images since the row before.

Sums and counts are reduced over ranks at every iteration, in float64, so that a checkpoint between two rows holds
exactly what an uninterrupted run would still have in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cluster.world import World
from spider.method import Method


class Stats(Method):
    """Accumulated (sum, count) by name. Every rank adds the same names in the same order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._pending: dict[str, Tensor] = {}  # this rank, this iteration: [2]
        self._total: dict[str, Tensor] = {}  # all ranks, since the last row: [2]

    def add(self, name: str, values: Tensor) -> None:
        """Report values of any shape; what is kept is their sum and their number."""
        values = values.detach().to(torch.float64)
        pair = torch.stack([values.sum(), values.new_full((), float(values.numel()))])
        self._pending[name] = self._pending[name] + pair if name in self._pending else pair

    def reduce(self) -> dict[str, Tensor]:
        """End the iteration: sum over ranks, add to the totals, and return this iteration's [sum, count] by name."""
        if not self._pending:
            return {}
        reduced = self.world.all_reduce_sum(torch.stack(list(self._pending.values())))
        iteration = dict(zip(self._pending, reduced, strict=True))
        for name, pair in iteration.items():
            self._total[name] = self._total[name] + pair if name in self._total else pair
        self._pending = {}
        return iteration

    def means(self) -> dict[str, float]:
        """The means since the last call, and begin anew."""
        means = {name: total / count for name, (total, count) in self.state().items()}
        self._total = {}
        return means

    def state(self) -> dict[str, list[float]]:
        """Totals as JSON."""
        if not self._total:
            return {}
        return dict(zip(self._total, torch.stack(list(self._total.values())).tolist(), strict=True))

    def load(self, state: dict[str, list[float]]) -> None:
        """Take over what `state` gave."""
        self._pending = {}
        self._total = {
            name: torch.tensor(pair, dtype=torch.float64, device=self.world.device) for name, pair in state.items()
        }
