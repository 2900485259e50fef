"""A phase: one step of one player, and what it minimises.

A phase makes passes over its batch: functions that run the networks forward and return terms. Each pass is one forward
and one backward, so that the graph of the adversarial loss is gone before a penalty builds its own, which is twice as
deep; gradients add up to those of the sum. A pass has no side effect that a second run of it would repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from spider.gan.loss import Loss, Term, as_term
from spider.gan.method import Kept
from spider.train.batch import PhaseBatch
from spider.train.player import Player

Draws = Literal["own", "shared", "none"]


@dataclass
class Outcome:
    """What a pass found on one micro-batch."""

    terms: list[Term] = field(default_factory=list)
    scores: Tensor | None = None  # [n]: by which the selection ranks images, whose terms are selectable
    reports: dict[str, Tensor] = field(default_factory=dict)  # values of any shape, whose means are logged
    keep: dict[str, Kept] = field(default_factory=dict)  # by method: values of this micro-batch's images, [n, ...]

    def add(self, label: str, loss: Loss, coefficient: float = 1.0, *, by: str = "", selectable: bool = False) -> None:
        """Add terms and reports, `label`/NAME in rows of metrics.jsonl, and what is kept.

        Args:
            by: the method that gives them, if it is one.
            selectable: whether the selection may leave out images.
        """
        self.terms += [as_term(f"{label}/{name}", each, coefficient, selectable) for name, each in loss.terms.items()]
        self.reports |= {f"{label}/{name}": values for name, values in loss.reports.items()}
        if by:
            self.keep[by] = detached(loss.keep)


def detached(keep: Kept) -> Kept:
    """Values without their graph, which would else live through all micro-batches."""
    return {name: values.detach() for name, values in keep.items()}


@dataclass(frozen=True)
class Pass:
    """One forward, and one backward of its terms."""

    run: Callable[[PhaseBatch], Outcome]
    every_steps: int = 1  # made in iterations 0, n, 2n, ...


@dataclass(frozen=True)
class Phase:
    """Whose step it is, when it is due, what it draws, and the passes that make up its loss.

    `reals` and `source` say whether the phase draws a batch of its own, takes that of the phase before, or none.
    """

    name: str
    player: Player
    passes: tuple[Pass, ...]
    every_steps: int = 1  # due in iterations 0, n, 2n, ...
    repeat: int = 1  # steps in such an iteration
    shrink: int = 1  # it uses the batch divided by this: the first slots of every rank
    reals: Draws = "none"
    source: Draws = "own"
    prepare: Callable[[PhaseBatch], PhaseBatch] | None = None  # adds the images that the passes take as given
    weights: Sequence[Callable[[int], float]] = ()  # of its terms, by the images seen

    def due(self, step: int) -> bool:
        """Whether iteration `step` has the phase."""
        return step % self.every_steps == 0

    def steps_before(self, step: int) -> int:
        """How many steps of the phase come before iteration `step`."""
        return -(-step // self.every_steps) * self.repeat

    def passes_at(self, step: int, images: int) -> list[Pass]:
        """The passes of iteration `step`; none while all weights are 0: a step then would move Adam's moments."""
        if self.weights and not any(weight(images) for weight in self.weights):
            return []
        return [each for each in self.passes if step % each.every_steps == 0]
