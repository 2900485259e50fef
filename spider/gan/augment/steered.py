"""Augmentations with a probability p that moves: by the overfitting, or by a schedule."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from spider.gan.augment.augmentation import Augmentation
from spider.gan.method import Method, Sums
from spider.gan.overfit.config import OverfitConfig
from spider.gan.overfit.controller import OverfitController
from spider.settings.schedule import Schedule, value_at


class Steered(Augmentation):
    """See Augmentation.

    Attributes:
        column: what rows of metrics.jsonl call p.
    """

    column: ClassVar[str]

    def __init__(self, p: Literal["adaptive"] | Schedule, control: OverfitConfig, batch: int) -> None:
        """`batch`: images of an iteration, over all ranks."""
        self._rule = OverfitController(control, batch) if p == "adaptive" else Scheduled(p)

    @property
    def p(self) -> float:
        """The probability, now."""
        return self._rule.p

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method."""
        self._rule.iterated(step, images, sums)

    def state(self) -> dict[str, Any]:
        """See Method."""
        return self._rule.state()

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        self._rule.load(state)

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        return {self.column: self.p}


class Scheduled(Method):
    """A p that follows the clock."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.p = value_at(schedule, 0)

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method."""
        self.p = value_at(self.schedule, images)

    def state(self) -> dict[str, Any]:
        """See Method."""
        return {"p": self.p}

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        self.p = state["p"]
