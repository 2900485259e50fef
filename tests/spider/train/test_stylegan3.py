"""A StyleGAN3 trains, is the same on any number of ranks, in any micro-batches, and when it is resumed."""

from __future__ import annotations

import pytest
import torch

from cluster.world import World
from spider.config.load import load_config, make_config
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_resume_is_exact, tensors_of

BASE = [
    "batch=8",
    "compute.precision=fp64",
    "condition.kind=class",
    "source.dim=8",
    "generator.kind=stylegan3",
    "generator.layers=3",
    "generator.margin=2",
    "generator.channel_base=32",
    "generator.w_dim=8",
    "generator.magnitude_half_life_kimg=0.02",
    "discriminator.kind=stylegan2",
    "discriminator.channel_base=64",
    "discriminator.mapping_layers=2",
    "objective.kind=non_saturating",
    "penalties.r1_gamma=1",
    "penalties.phase=own",
    "penalties.interval_steps=2",
    "augment=[{kind: blur, sigma: {linear: [1, 0], until_kimg: 0.02}}]",
]


def trainer_for(data, world, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)


def trained(world, data, accumulation=1):
    """On a rank: all tensors after some steps."""
    trainer = trainer_for(data, world, [f"accumulation={accumulation}"])
    for _ in range(4):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    trainer.close()
    return tensors_of(trainer)


def test_steps_are_the_same_anywhere(ranks, digits):
    whole = trained(World.single(), digits)
    magnitudes = [tensor for name, tensor in whole.items() if name.endswith(".magnitude")]
    assert len(magnitudes) == 8  # of four layers, and of their average
    assert whole["generator.w_avg"].any()
    assert all((magnitude - 1).abs() > 1e-3 for magnitude in magnitudes)
    for tensors in ranks(2).run(trained, digits, 1):
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(trained(World.single(), digits, 2), whole, rtol=1e-9, atol=1e-9)


def test_resume_equals_uninterrupted(digits):
    assert_resume_is_exact(*(trainer_for(digits, World.single()) for _ in range(2)), before=2)


@pytest.mark.parametrize("steps", ["all", "discriminator"])
def test_the_mean_of_w_moves_by_the_steps_that_are_named(digits, steps):
    """Two each iteration, or one: by a decay of 0, to the last one's mean."""
    trainer = trainer_for(digits, World.single(), [f"generator.w_avg_steps={steps}", "generator.w_avg_beta=0"])
    method, seen = trainer.generator.module, {}

    def heard(phase, kept, moved=method.stepped):
        moved(phase, kept)
        if kept:
            seen[phase] = kept["w"].mean(0)

    method.stepped = heard
    trainer.iterate()
    trainer.close()
    torch.testing.assert_close(method.w_avg, seen["g_main" if steps == "all" else "d_main"])
    assert not torch.allclose(seen["g_main"], seen["d_main"])


@pytest.mark.parametrize("name", ["stylegan3/t", "stylegan3/r"])
def test_every_preset_trains(digits, tmp_path, name):
    tiny = [
        "source.dim=8",
        "generator.layers=3",
        "generator.channel_base=32",
        "generator.w_dim=8",
        "generator.margin=2",
    ]
    tiny += ["discriminator.channel_base=64", "discriminator.mapping_layers=1", "batch=4"]
    config = prepare(load_config(name, [f"data.path={digits}", *tiny]), RunDirectory(tmp_path / "none"))
    trainer = Trainer(config, World.single())
    assert [phase.name for phase in trainer.plan.phases] == ["g_main", "d_main", "d_reg"]
    trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    assert config.generator.equivariance == {"stylegan3/t": "translation", "stylegan3/r": "rotation"}[name]
    # Published: 0.5 for 32 images of 128 px, four times as much at twice the side
    assert config.penalties.r1_gamma * config.penalties.r1_factor == pytest.approx(0.5 * (8 / 128) ** 2 * 32 / 4)
