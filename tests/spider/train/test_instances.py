"""Instances with the networks that are told of them, and beside images of a neighbour: on any number of ranks."""

from __future__ import annotations

import pytest
import torch

from cluster.world import World
from spider import api
from spider.config.load import make_config
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_resume_is_exact, tensors_of

SMALLEST = ["channel_base=256", "channel_max=8"]
STYLE = [
    "generator.kind=stylegan2", "discriminator.kind=stylegan2", "generator.w_dim=8", "generator.mapping_layers=2",
    *(f"{role}.{key}" for role in ("generator", "discriminator") for key in SMALLEST),
    "discriminator.mbstd_group=2", "objective.kind=non_saturating", "penalties.r1_gamma=1", "penalties.phase=own",
    "penalties.interval_steps=2",
    "g_penalties.path_length_weight=2",
]  # fmt: skip
PROJECTED = [
    "generator.kind=fastgan", "generator.form=lite", "generator.ngf=2", "discriminator.kind=projected",
    "discriminator.width=0.05", "discriminator.mixed_channels=4", "objective.kind=hinge",
]  # fmt: skip
R3GAN = [
    "generator.kind=r3gan", "discriminator.kind=r3gan", "generator.width=0.02", "discriminator.width=0.02",
    "objective.kind=relativistic", "penalties.r1_gamma=1", "penalties.r2_gamma=1",
]  # fmt: skip
SPIDER = ["source.kind=images", "source.path={patches}", "generator.width=0.05", "discriminator.width=0.05"]
METHODS = {"stylegan2": STYLE, "projected": PROJECTED, "r3gan": R3GAN, "spider": SPIDER}


@pytest.fixture(scope="module")
def bank(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("bank") / "digits.safetensors"
    api.instances(digits, out, embedding="offline", neighbors=4, centres=30, flips=True)
    return out


def trainer_for(world, data, patches, bank, method, *more):
    words = [each.format(patches=patches) for each in METHODS[method]]
    told = ["condition.kind=instance", f"condition.bank={bank}", "condition.classes=true"]
    precision = [] if method == "projected" else ["compute.precision=fp64"]  # whose pretrained network is of float32
    return Trainer(make_config({"data": {"path": str(data)}}, ["batch=4", *words, *told, *precision, *more]), world)


def trained(world, *asked):
    trainer = trainer_for(world, *asked)
    for _ in range(4):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    trainer.close()
    return tensors_of(trainer)


@pytest.mark.parametrize("method", ["stylegan2", "r3gan", "spider"])
def test_two_ranks_learn_what_one_learns(ranks, digits, patches, bank, method):
    whole = trained(World.single(), digits, patches, bank, method)
    for tensors in ranks(2).run(trained, digits, patches, bank, method):
        torch.testing.assert_close(tensors, whole, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", ["projected", "spider"])
def test_a_resumed_run_is_the_run(digits, patches, bank, method):
    trainer, other = (trainer_for(World.single(), digits, patches, bank, method) for _ in range(2))
    assert_resume_is_exact(trainer, other, before=2, after=2)
