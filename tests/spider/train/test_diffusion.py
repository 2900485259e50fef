"""A Diffusion-GAN is the same on any number of ranks, in any micro-batches, and when it is resumed while p moves."""

from __future__ import annotations

import pytest
import torch

from cluster.world import World
from spider.config.load import load_config, make_config, preset_names
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of

BASE = [
    "batch=8",
    "compute.precision=fp64",
    "source.dim=8",
    "generator.kind=stylegan2",
    "generator.channel_base=64",
    "generator.w_dim=8",
    "generator.mapping_layers=2",
    "discriminator.kind=stylegan2",
    "discriminator.channel_base=64",
    "discriminator.mapping_layers=2",
    "discriminator.mbstd_group=null",
    "discriminator.told_time=true",
    "objective.kind=non_saturating",
    "penalties.r1_gamma=1",
    "augment=[{kind: diffusion, control: {interval_steps: 1, rise_kimg: 0.1, target: -0.9}}]",
]
TINY = {
    "diffusion/stylegan2": [
        "generator.channel_base=64",
        "generator.w_dim=8",
        "discriminator.channel_base=64",
        "batch=4",
    ],
    "diffusion/projected": [
        "generator.ngf=2",
        "discriminator.width=0.015625",
        "discriminator.mixed_channels=4",
        "discriminator.enlarge_to=128",
        "batch=2",
    ],
}


def trainer_for(data, world, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)


def trained(world, data, overrides=()):
    """On a rank: all tensors, and p, after some iterations."""
    trainer = trainer_for(data, world, overrides)
    for _ in range(4):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer), trainer.plan.methods["augment.0"].p


def test_it_is_the_same_on_two_ranks_in_micro_batches(ranks, digits):
    whole, p = trained(World.single(), digits)
    assert p > 0.1
    for tensors, p_there in ranks(2).run(trained, digits, ["accumulation=2"]):
        assert p_there == p
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("before", ["", "{kind: ada, p: diffusion, pipe: blit}, "], ids=["alone", "behind_ada"])
def test_resume_equals_uninterrupted_while_p_moves(digits, before):
    augment = BASE[-1].replace("[{", f"[{before}{{")
    assert_resume_is_exact(*(trainer_for(digits, World.single(), [augment]) for _ in range(2)), before=2, after=2)


def test_p_hears_nothing_of_a_skipped_step(digits):
    """Before it is due to move: then it follows what was seen in the steps that were taken."""
    seldom = "augment=[{kind: diffusion, control: {interval_steps: 5, rise_kimg: 0.1, target: -0.9}}]"
    trainer = trainer_for(digits, World.single(), [seldom, "ema.half_life_kimg=0"])
    trainer.iterate()
    assert_a_skipped_step_leaves_no_trace(trainer)
    assert trainer.snapshot().state["augment.0"]["count"] == 2 * 8
    trainer.iterate()
    trainer.close()
    assert trainer.plan.methods["augment.0"].p > 0


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("diffusion/")])
def test_every_preset_trains(digits, tmp_path, name):
    config = load_config(name, [f"data.path={digits}", "source.dim=8", *TINY[name]])
    trainer = Trainer(prepare(config, RunDirectory(tmp_path / "none")), World.single())
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    columns = next(
        method.columns(0) for key, method in trainer.plan.methods.items() if "diffusion" in str(type(method))
    )
    assert columns["augment/diffusion_steps"] >= 5
