"""Whether a generator that got better has collapsed, or begins to copy.

Recall and coverage are the shares of the reference that samples reach. They begin near 0 and rise. Where one of them
falls far below what it was, the generator makes fewer different images: the common failure of projected discriminators
on small sets. `nearest`, the distance of samples to the nearest training image, is near 1 where they are as far from it
as such images are from each other: far below they are copies.
"""

from __future__ import annotations

from collections.abc import Sequence

from spider.judge.metrics.results import MetricResult

NAMES = ("recall", "coverage")
_LEAST = 0.05  # what was less says nothing
_FALLEN = 0.25  # of the highest value
_COPIES = 0.5  # of the distance between training images


class CollapseWatch:
    """Sees each evaluation of a training, in their order, those before a resumption too."""

    def __init__(self) -> None:
        self._highest: dict[str, float] = {}
        self._said: set[str] = set()

    def remarks(self, results: Sequence[MetricResult]) -> list[str]:
        """A line for each metric that has fallen, once until it has risen again."""
        found = []
        for result in results:
            if result.value is None:
                continue
            if result.name == "nearest":
                found += self._copied(result.label, result.value)
            if result.name not in NAMES:
                continue
            highest = max(result.value, self._highest.get(result.label, 0.0))
            self._highest[result.label] = highest
            if highest < _LEAST or result.value > _FALLEN * highest:
                self._said.discard(result.label)
            elif result.label not in self._said:
                self._said.add(result.label)
                found.append(
                    f"{result.label} fell from {highest:.3f} to {result.value:.3f}: samples reach fewer images. A "
                    "collapse? Look at the grids and the memorisation page; the best checkpoint is kept"
                )
        return found

    def _copied(self, label: str, value: float) -> list[str]:
        if value > _COPIES:
            self._said.discard(label)
            return []
        if label in self._said:
            return []
        self._said.add(label)
        far = f"{label} is {value:.2f}: samples lie so much nearer to a training image than such images to each other"
        return [f"{far}. Copies? Look at the memorisation page; the best checkpoint is kept"]
