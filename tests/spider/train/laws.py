"""Laws of a training, whatever its networks and methods: that it resumes exactly, and that bad steps leave no trace."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from spider.train.batch import PhaseBatch
from spider.train.phases import Outcome, Pass
from spider.train.trainer import Trainer


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of every tensor that a checkpoint would hold, by `group.name`. Collective."""
    held = trainer.snapshot().tensors
    return {f"{group}.{name}": tensor.clone() for group, tensors in held.items() for name, tensor in tensors.items()}


def assert_resume_is_exact(trainer: Trainer, other: Trainer, before: int = 1, after: int = 1) -> None:
    """A trainer that goes on from another's snapshot comes to the same tensors and state, bit for bit. Collective.

    Args:
        trainer: trains for `before` and `after` more iterations, and is closed.
        other: a new one of the same configuration, which takes over the state between, and trains for `after`.
    """
    for _ in range(before):
        trainer.iterate()
    other.load(deepcopy(trainer.snapshot()))  # a state that is loaded may be kept
    for each in (trainer, other):
        for _ in range(after):
            each.iterate()
        each.close()
    assert trainer.plan.guard.skipped == 0
    torch.testing.assert_close(tensors_of(other), tensors_of(trainer), rtol=0, atol=0)
    expected, found = (each.snapshot().state for each in (trainer, other))
    assert found == expected, (found, expected)


def assert_a_skipped_step_leaves_no_trace(trainer: Trainer, rank: int = 0) -> set[str]:
    """An iteration of steps that are not finite changes nothing that is saved but the clock and the guard. Collective.

    In one iteration what the networks are given is not finite, so that buffers and methods see it; in the next the
    losses alone, so that all else could be learnt from.

    Args:
        trainer: after an iteration, with nothing that moves by the clock alone: its `ema.half_life_kimg` is 0, and no p
            is due to move in the next two iterations.
        rank: the one where values are not finite.

    Returns:
        The names of the tensors that a good iteration moves thereafter.
    """
    tensors, state, take = tensors_of(trainer), _heard(trainer), trainer.stepper.take
    for spoilt in (_inputs_spoilt, _losses_spoilt):
        expected = sum(phase.repeat for phase in trainer.plan.phases if phase.due(trainer.step))
        with pytest.MonkeyPatch.context() as patch:
            if trainer.world.rank == rank:
                patch.setattr(
                    trainer.stepper, "take", lambda phase, passes, parts, to=spoilt: take(phase, *to(passes, parts))
                )
            trainer.iterate()
        assert len(trainer.warnings) == expected, trainer.warnings
        torch.testing.assert_close(tensors_of(trainer), tensors, rtol=0, atol=0)
        differing = [name for name, each in _heard(trainer).items() if each != state[name]]
        assert not differing, differing
    trainer.iterate()
    assert not trainer.warnings, trainer.warnings
    now = tensors_of(trainer)
    infinite = [name for name, tensor in now.items() if not tensor.isfinite().all()]
    assert not infinite, infinite
    return {name for name, tensor in now.items() if not torch.equal(tensor, tensors[name])}


def _heard(trainer: Trainer) -> dict[str, Any]:
    """The state, without what an iteration changes though none of its steps is taken."""
    state = deepcopy(trainer.snapshot().state)
    return {name: each for name, each in state.items() if name not in ("images", "guard")}


def _inputs_spoilt(passes: Sequence[Pass], parts: list[PhaseBatch]) -> tuple[Sequence[Pass], list[PhaseBatch]]:
    def spoilt(values: Tensor) -> Tensor:
        return torch.full_like(values, torch.nan)

    return passes, [
        replace(part, source=spoilt(part.source), real=None if part.real is None else spoilt(part.real))
        for part in parts
    ]


def _losses_spoilt(passes: Sequence[Pass], parts: list[PhaseBatch]) -> tuple[Sequence[Pass], list[PhaseBatch]]:
    def spoilt(one_pass: Pass, batch: PhaseBatch) -> Outcome:
        outcome = one_pass.run(batch)
        return replace(outcome, terms=[replace(term, values=term.values / 0) for term in outcome.terms])

    return [replace(each, run=partial(spoilt, each)) for each in passes], parts
