"""CHAIN is the same on any number of ranks, and when it is resumed while p moves."""

from __future__ import annotations

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
    "discriminator.norm=chain",
    "objective.kind=hinge",
    "penalties.r1_gamma=1",
    "auxiliary=[{kind: chain, least: 0.1, target: -0.99, step: 0.3}]",
]


def trainer_for(data, world, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)


def trained(world, data):
    """On a rank: all tensors, and p, after some iterations."""
    trainer = trainer_for(data, world)
    for _ in range(3):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer), trainer.plan.methods["auxiliary.0"].p


def test_it_is_the_same_on_two_ranks(ranks, digits):
    whole, p = trained(World.single(), digits)
    assert p > 0.5
    for tensors, p_there in ranks(2).run(trained, digits):
        assert p_there == p
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)


def test_resume_equals_uninterrupted_while_p_moves(digits):
    assert_resume_is_exact(*(trainer_for(digits, World.single()) for _ in range(2)), before=2, after=2)


def test_a_skipped_step_leaves_no_trace(digits):
    trainer = trainer_for(digits, World.single(), ["ema.half_life_kimg=0"])
    trainer.iterate()
    assert_a_skipped_step_leaves_no_trace(trainer)
