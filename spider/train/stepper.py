"""One step of one player: every pass over every micro-batch, one reduction over ranks, one optimizer step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cluster.world import World
from spider.config.schema import Config
from spider.selection.select import Selected, Selection
from spider.train.batch import PhaseBatch
from spider.train.guard import Guard
from spider.train.phases import Pass, Phase
from spider.train.stats import Stats
from spider.train.terms import Term

Reports = list[tuple[str, Tensor]]


class Stepper:
    """Takes the steps of phases.

    Attributes:
        warnings: a line for each step that was skipped, since the list was last emptied.
        last_k: how many samples taught the generator in its last step.
    """

    def __init__(
        self, config: Config, world: World, buffers: Sequence[Tensor], selection: Selection, stats: Stats, guard: Guard
    ) -> None:
        self.config = config
        self.world = world
        self.buffers = buffers
        self.selection = selection
        self.stats = stats
        self.guard = guard
        self.warnings: list[str] = []
        self.last_k = config.batch

    def take(self, phase: Phase, passes: Sequence[Pass], parts: list[PhaseBatch]) -> bool:
        """One step. Whether it was taken.

        A step whose loss or gradient is not finite is skipped, and leaves no trace but a warning and a count: the
        networks' buffers go back to what they were, and nothing is reported.
        """
        images = parts[0].images
        player, scale = phase.player, self.config.compute.loss_scale
        before = [buffer.clone() for buffer in self.buffers]
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        reports: Reports = []
        if phase.prepare is not None:
            parts = [phase.prepare(part) for part in parts]
        player.move_schedules(images)
        player.engine.zero_grad()
        with player.playing():
            chosen = self._choose_ahead(phase, parts, images)
            for m, part in enumerate(parts):
                for one_pass in passes:
                    outcome = one_pass.run(part)
                    loss = self._reduce(phase, outcome.terms, None if chosen is None else chosen[m], images, reports)
                    last = m == len(parts) - 1 and one_pass is passes[-1]
                    player.engine.backward(loss * scale if scale != 1 else loss, last=last)
                    total += loss.detach()
                    reports += [(term.name, term.values.detach()) for term in outcome.terms]
                    reports += outcome.reports.items()
        norm = player.engine.gradient_norm(scale)
        reports.append((f"grad_norm/{phase.name}", norm))
        if self.world.is_finite(norm + self.world.all_reduce_sum(total)):
            player.engine.step()
            self.guard.passed(phase.name)
            for name, values in reports:
                self.stats.add(name, values)
            return True
        for buffer, value in zip(self.buffers, before, strict=True):
            buffer.copy_(value)
        bad = [name for name, values in reports[:-1] if not bool(values.isfinite().all())]
        gradients = {f"gradient of {player.name}.{name}": at for name, at in player.engine.non_finite().items()}
        self.warnings.append(self.guard.skip(phase.name, bad, gradients, images, self.world))
        return False

    def _reduce(
        self, phase: Phase, terms: Sequence[Term], chosen: Selected | None, images: int, reports: Reports
    ) -> Tensor:
        """The share of this micro-batch in the sum of the terms' means over the global batch."""
        shares = []
        for term in terms:
            if phase.selects and term.scores is not None and self.selection.active:
                chosen = chosen or self.selection.pick(term.scores, images, self.world)
                shares.append(term.share(chosen.total, chosen.weights))
                self.last_k = chosen.k
                reports.append(("selection/score_all", term.scores))
                reports.append(("selection/score_selected", term.scores[chosen.weights.bool()]))
                reports.append(("selection/k", term.scores.new_full((1,), float(chosen.k))))
            else:
                shares.append(term.share(float(self.config.batch)))
        return torch.stack(shares).sum()

    def _choose_ahead(self, phase: Phase, parts: list[PhaseBatch], images: int) -> list[Selected] | None:
        """With several micro-batches the selection must see every score before the first backward: an extra forward."""
        if not (phase.selects and self.selection.active and len(parts) > 1):
            return None
        with torch.no_grad():
            terms = [term for part in parts for term in phase.passes[0].run(part).terms]
        # parts hold slots m, m + A, m + 2A, ...: [n, A] -> [n A] is slot order
        scores = torch.stack([term.scores for term in terms if term.scores is not None], dim=1).flatten()
        chosen = self.selection.pick(scores, images, self.world)
        return [Selected(chosen.weights[m :: len(parts)], chosen.total, chosen.k) for m in range(len(parts))]
