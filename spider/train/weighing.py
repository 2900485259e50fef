"""How the values of a pass weigh in a step: what must be known of the whole batch before the first backward.

A value weighs 1. Where the selection leaves an image out, it weighs 0, and a term may bring weights of its own. What
they come to is known when the whole global batch was seen. So with several micro-batches the pass is run once more on
those that are still to come, without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cluster.world import World
from spider.gan.loss import Term
from spider.gan.selection.select import Selected, Selection
from spider.runs.stats import Report
from spider.train.batch import PhaseBatch, given
from spider.train.phases import Outcome, Pass


@dataclass(frozen=True)
class Weighing:
    """The weights of a pass's terms."""

    images: int  # in all micro-batches of all ranks
    parts: int  # micro-batches
    chosen: Selected | None = None
    totals: dict[str, Tensor] = field(default_factory=dict)  # `Term.divisor`, of terms that wait for it

    def selected(self, term: Term, part: int) -> Tensor | None:
        """What the selection sets for a term's images in micro-batch number `part`, [n]; None: 1."""
        # Slot s of the rank belongs to micro-batch s mod A
        return self.chosen.weights[part :: self.parts] if self.chosen and term.selectable else None

    def share(self, term: Term, part: int, report: Report) -> Tensor:
        """The share of a micro-batch in a term's mean over the global batch, which is reported. Scalar."""
        selected = self.selected(term, part)
        count = self.chosen.total if self.chosen and term.selectable else self.images
        term = term.about(self.totals, count)
        if term.weights is not None:
            total = self.totals[term.name]
            report.add(term.name, term.weighed(selected) * (self.images / total))
            return term.share(total, selected)
        report.add(term.name, term.values)  # of all images, also of those that the selection leaves out
        return term.share(count, selected)


def weigh(
    one_pass: Pass, parts: Sequence[PhaseBatch], first: Outcome, selection: Selection, world: World, report: Report
) -> Weighing:
    """How the terms of a pass weigh. Collective.

    Args:
        parts: the micro-batches of the step.
        first: what the pass found on the first of them.
    """
    images = world.size * sum(len(part.source) for part in parts)
    own = [i for i, term in enumerate(first.terms) if term.waits]
    selects = first.scores is not None and selection.active
    if not (own or selects):
        return Weighing(images, len(parts))
    with torch.no_grad():
        outcomes = [first, *(one_pass.run(part) for part in parts[1:])]
    chosen = None
    if selects:
        # [n, A] -> [n A] is the order of the rank's slots
        scores = torch.stack([given(each.scores) for each in outcomes], dim=1).flatten()
        chosen = selection.pick(scores, parts[0].images, world)
        for name, values in selection.reports(scores, chosen).items():
            report.add(name, values)
    weighing = Weighing(images, len(parts), chosen)
    for i in own:
        terms = [each.terms[i] for each in outcomes]
        whole = world.all_reduce_sum(
            torch.stack([term.total(weighing.selected(term, part)) for part, term in enumerate(terms)]).sum()
        )
        # A selection whose norm is not the k that it chose says so in its total
        norm = chosen.total / chosen.k if chosen and first.terms[i].selectable else 1.0
        weighing.totals[first.terms[i].name] = first.terms[i].divisor(whole, norm)
    return weighing
