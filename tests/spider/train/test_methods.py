"""What methods hear and when, and that passes leave nothing behind."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from cluster.world import World
from spider.config.load import make_config
from spider.train import plan
from spider.train.trainer import Trainer
from tests.spider.train.laws import tensors_of

BASE = ["batch=8", "generator.width=0.05", "discriminator.width=0.05", "generator.norm=none"]
ADA = (
    "augment=[{kind: ada, pipe: bgc, control: {p_start: 0.5, interval_steps: 1, rise_kimg: 0.1}}, {kind: diffaugment}]"
)
MATTERS = {("overfit", "selection")}  # as spider.train.plan says beside the order


def trainer_for(data, overrides):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), World.single())


def everything(trainer):
    return tensors_of(trainer), trainer.snapshot().state


def same(one, other):
    return one[1] == other[1] and all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())


def test_which_orders_of_methods_matter(digits, monkeypatch):
    """p jumps from 0 to 1 in the first iteration, so that k walks the other way if it has not heard of that."""
    alive = ["selection.kind=adaptive", "overfit.interval_steps=1", "overfit.target=-0.9", "overfit.rise_kimg=0.008"]

    def trained(order):
        monkeypatch.setattr(plan, "ORDER", order)
        trainer = trainer_for(digits, [*alive, ADA, "auxiliary=[{kind: lecam}]"])
        for _ in range(3):
            trainer.iterate()
        return everything(trainer)

    order = plan.ORDER
    expected = trained(order)
    assert expected[1]["overfit"]["p"] == 1.0
    for i, pair in enumerate(pairwise(order)):
        swapped = trained((*order[:i], *reversed(pair), *order[i + 2 :]))
        assert same(swapped, expected) == (pair not in MATTERS), pair


@pytest.mark.parametrize(
    "overrides",
    [
        ["penalties.r1_gamma=1", "penalties.gp_weight=1", "source.kind=gamma", "selection.kind=fixed", "selection.k=3"],
        ["objective.kind=relativistic", "penalties.r1_gamma=1", "penalties.r2_gamma=1", ADA],
    ],
    ids=["separable", "paired"],
)
def test_a_pass_that_is_run_twice_changes_nothing_that_one_run_once_does_not(digits, overrides):
    trainer = trainer_for(digits, overrides)
    trainer.iterate()
    for phase in trainer.plan.phases:
        (part,) = trainer.feeds.draw(phase, 1, 0)
        if phase.prepare is not None:
            part = phase.prepare(part)
        for each in phase.passes:
            with phase.player.playing():
                once = each.run(part)
                after = everything(trainer)
                again = each.run(part)
            assert same(everything(trainer), after)
            for term, other in zip(once.terms, again.terms, strict=True):
                assert torch.equal(term.values, other.values)
            assert all(torch.equal(values, again.reports[name]) for name, values in once.reports.items())


def test_a_method_hears_of_the_phases_that_it_names(digits):
    trainer = trainer_for(digits, ["auxiliary=[{kind: lecam}]"])
    method = trainer.plan.methods["auxiliary.0"]
    heard = []
    method.stepped = lambda phase, kept: heard.append(phase)
    trainer.iterate()
    every = {*heard}
    assert len(every) > 1
    heard.clear()
    method.phases = ("d_main",)
    trainer.iterate()
    assert {*heard} == {"d_main"}
    trainer.close()
