"""Numbers on their way to a row of metrics.jsonl: means over the images since the row before.

Sums and counts are over all ranks, in float64, and taken up at every iteration, so that a checkpoint between two rows
holds exactly what an uninterrupted run would still have in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spider.gan.method import Method, Sums


class Report:
    """What the passes of one step report, on this rank.

    Attributes:
        sums: by name, float64 scalars. They stay on their device, which is not waited for.
        counts: how many values each is the sum of.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Report values of any shape. Every rank adds as many, under the same names in the same order."""
        total = values.detach().sum(dtype=torch.float64)
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.counts[name] = self.counts.get(name, 0) + values.numel()


class Stats(Method):
    """Accumulated (sum, count) by name, since the last row."""

    def __init__(self) -> None:
        self._total: dict[str, tuple[float, float]] = {}

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method."""
        for name, (total, count) in sums.items():
            before = self._total.get(name, (0.0, 0.0))
            self._total[name] = before[0] + total, before[1] + count

    def means(self) -> dict[str, float]:
        """The means since the last call, and begin anew."""
        means = {name: total / count for name, (total, count) in self._total.items()}
        self._total = {}
        return means

    def state(self) -> dict[str, list[float]]:
        """See Method."""
        return {name: list(pair) for name, pair in self._total.items()}

    def load(self, state: dict[str, list[float]]) -> None:
        """See Method."""
        self._total = {name: (total, count) for name, (total, count) in state.items()}
