"""One step of one player: every pass over every micro-batch, one reduction over ranks, one optimizer step.

Nothing in a step waits for the device. Whether loss and gradients are finite is a flag there: the optimizer heeds it,
and so do the networks' buffers. Once an iteration the host reads the flags of all its steps together with what their
passes reported, and learns which steps were taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.world import World
from spider.config.schema import Config
from spider.gan.method import Kept, Method, Sums
from spider.runs.stats import Report
from spider.train.batch import PhaseBatch
from spider.train.phases import Pass, Phase
from spider.train.plan import Plan
from spider.train.weighing import Weighing, weigh


@dataclass(frozen=True)
class _Asked:
    """A step as it was asked of the device."""

    phase: Phase
    images: int  # on the clock
    taken: Tensor  # bool, scalar, the same on every rank
    report: Report
    finite: Tensor  # of the gradients, see `Engine.measure`


@dataclass
class Stepper:
    """Takes the steps of phases.

    Attributes:
        warnings: a line for each step of the last iteration that was skipped.
    """

    config: Config
    world: World
    plan: Plan

    def __post_init__(self) -> None:
        self.buffers = [buffer for module in self.plan.modules.values() for buffer in module.buffers()]
        # Those that hear of a step, each with all that it may change
        self.hearing = {
            name: (method, [*method.tensors().values(), *method.touched()])
            for name, method in self.plan.methods.items()
            if type(method).stepped is not Method.stepped
        }
        # Players whose parameters a method changes beside their optimizer, perhaps through a view
        moved = {tensor.untyped_storage().data_ptr() for _, tensors in self.hearing.values() for tensor in tensors}
        self.projected = [
            each for each in self.plan.players if any(p.untyped_storage().data_ptr() in moved for p in each.parameters)
        ]
        self.warnings: list[str] = []
        self._asked: list[_Asked] = []

    def take(self, phase: Phase, passes: Sequence[Pass], parts: list[PhaseBatch]) -> None:
        """One step.

        A step whose loss or gradient is not finite leaves no trace but a warning and a count: parameters, moments, the
        networks' buffers and what methods remember stay what they were, and what it reported is dropped.
        """
        images = parts[0].images
        player, scale = phase.player, self.config.compute.loss_scale
        before = [buffer.clone() for buffer in self.buffers]
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        report = Report()
        kept: list[dict[str, Kept]] = []  # of each micro-batch, by method
        if phase.prepare is not None:
            parts = [phase.prepare(part) for part in parts]
        player.move_schedules(images)
        player.engine.zero_grad()
        with player.playing():
            weighings: dict[int, Weighing] = {}  # by the number of the pass
            for m, part in enumerate(parts):
                kept.append({**part.keep})
                for number, one_pass in enumerate(passes):
                    outcome = one_pass.run(part)
                    if m == 0:
                        weighings[number] = weigh(one_pass, parts, outcome, self.plan.selection, self.world, report)
                    loss = torch.stack([weighings[number].share(term, m, report) for term in outcome.terms]).sum()
                    last = m == len(parts) - 1 and one_pass is passes[-1]
                    player.engine.backward(loss * scale if scale != 1 else loss, last=last)
                    total += loss.detach()
                    kept[m] |= outcome.keep
                    for name, values in outcome.reports.items():
                        report.add(name, values)
        norm, finite = player.engine.measure(scale)
        taken = (norm + self.world.all_reduce_sum(total)).isfinite()
        player.engine.step(taken)
        _take_back(self.buffers, before, taken)
        for name, (method, moved) in self.hearing.items():
            if method.phases is None or phase.name in method.phases:
                before = [tensor.clone() for tensor in moved]
                with torch.no_grad():
                    method.stepped(phase.name, self._gathered([part.get(name, {}) for part in kept]))
                _take_back(moved, before, taken)
        for projected in self.projected:
            projected.engine.parameters_changed()
        report.add(f"grad_norm/{phase.name}", norm)
        self._asked.append(_Asked(phase, images, taken, report, finite))

    def settle(self) -> Sums:
        """End the iteration: what the steps that were taken reported, over all ranks. Collective.

        The one place of an iteration where the host waits for the device. Raises SpiderError as `Guard.skip`.
        """
        asked, self._asked = self._asked, []
        self.warnings = []
        reported = torch.stack([total for each in asked for total in each.report.sums.values()])
        flags = torch.stack([each.taken for each in asked])
        read = iter(self.world.read(torch.cat([self.world.all_reduce_sum(reported), flags.to(reported.dtype)])))
        by_step = [{name: next(read) for name in each.report.sums} for each in asked]
        sums: dict[str, tuple[float, float]] = {}
        for each, totals, taken in zip(asked, by_step, read, strict=True):
            if not taken:
                self.warnings.append(self._skipped(each))
                continue
            self.plan.guard.passed(each.phase.name)
            for name, total in totals.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = before[0] + total, before[1] + each.report.counts[name] * self.world.size
        return sums

    def _gathered(self, parts: Sequence[Kept]) -> Kept:
        """What a method kept in each micro-batch of this rank, for the global batch in order of slots."""
        # [A][n, ...] -> [n, A, ...] -> [b, ...], the rank's slots; [W, b, ...] -> [b, W, ...] -> [B, ...]
        own = {name: torch.stack([part[name] for part in parts], dim=1).flatten(0, 1) for name in parts[0]}
        return {name: self.world.all_gather(values).transpose(0, 1).flatten(0, 1) for name, values in own.items()}

    def _skipped(self, asked: _Asked) -> str:
        """The line about a step that was not taken."""
        *names, _ = asked.report.sums  # the last is the norm of the gradient
        bad = [name for name in names if not math.isfinite(asked.report.sums[name].item())]
        player = asked.phase.player
        whose = "" if player.parts else f"{player.name}."  # beside parts, the network has its name already
        gradients = {f"gradient of {whose}{name}": at for name, at in player.engine.non_finite(asked.finite).items()}
        return self.plan.guard.skip(asked.phase.name, bad, gradients, asked.images, self.world)


def _take_back(tensors: Sequence[Tensor], before: Sequence[Tensor], taken: Tensor) -> None:
    """Give tensors their values from before where the step was not taken."""
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(taken, tensor, value))
