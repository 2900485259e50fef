"""CHAIN is the same on any number of ranks, and when it is resumed while p moves."""

from __future__ import annotations

import pytest
import torch

from cluster.world import World
from spider.config.load import make_config
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of

BASE = [
    "batch=8",
    "compute.precision=fp64",
    "source.dim=8",
    "generator.kind=dcgan",
    "generator.width=0.05",
    "discriminator.width=0.05",
    "objective.kind=hinge",
    "auxiliary=[{kind: chain, least: 0.1, target: -0.99, step: 0.3}]",
]
FORMS = {
    "batch": ["discriminator.norm=chain", "penalties.r1_gamma=1"],
    "cumulative": ["discriminator.norm=chain_cumulative"],
}
forms = pytest.mark.parametrize("form", FORMS)


def trainer_for(data, world, form, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *FORMS[form], *overrides]), world)


def trained(world, data, form):
    """On a rank: all tensors, and p, after some iterations."""
    trainer = trainer_for(data, world, form)
    for _ in range(3):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer), trainer.plan.methods["auxiliary.0"].p


@forms
def test_it_is_the_same_on_two_ranks(ranks, digits, form):
    whole, p = trained(World.single(), digits, form)
    assert p > 0.5
    for tensors, p_there in ranks(2).run(trained, digits, form):
        assert p_there == p
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)


@forms
def test_resume_equals_uninterrupted_while_p_moves(digits, form):
    assert_resume_is_exact(*(trainer_for(digits, World.single(), form) for _ in range(2)), before=2, after=2)


@forms
def test_a_skipped_step_leaves_no_trace(digits, form):
    trainer = trainer_for(digits, World.single(), form, ["ema.half_life_kimg=0"])
    trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    means = {name for name in moved if name.endswith((".squares", ".slopes"))}
    assert len(means) == (2 * len(trainer.plan.discriminator.module.chains) if form == "cumulative" else 0)
