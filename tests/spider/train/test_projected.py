"""A Projected GAN is the same on any number of ranks and when it is resumed; what is frozen in it never moves."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from cluster.world import World
from spider.config.load import load_config, make_config, preset_names
from spider.errors import SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.evaluator import open_evaluation
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_resume_is_exact, tensors_of

SEEN = ["discriminator.enlarge_to=128", "discriminator.width=0.015625", "discriminator.mixed_channels=4", "batch=2"]
BASE = [
    *SEEN,
    "source.dim=8",
    "generator.kind=fastgan",
    "generator.ngf=2",
    "discriminator.kind=projected",
    "objective.kind=hinge",
    "augment=[{kind: diffaugment, cutout: 0.2}]",
    "selection.kind=fixed",
    "selection.k=1",
]


def trainer_for(data, world, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)


def trained(world, data, batch=2, iterations=2):
    """On a rank: all tensors at first and after some iterations."""
    trainer = trainer_for(data, world, [f"batch={batch}"])
    first = tensors_of(trainer)
    for _ in range(iterations):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    trainer.close()
    return first, tensors_of(trainer)


@cache
def alone(data):
    return trained(World.single(), data)


def test_two_steps_are_the_same_on_two_ranks(ranks, digits):
    """Also the batch norms, the power iterations, and which samples teach the generator.

    In single precision, because the pretrained network takes twenty times as long in double: up to rounding, of which
    each of Adam's two first steps may make twice the learning rate.
    """
    for found in ranks(2).run(trained, digits):
        for there, here in zip(found, alone(digits), strict=True):
            torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


def gradient(tensors, player):
    """After one iteration, but for a factor."""
    moments = [name for name in tensors if name.startswith(f"{player}_optimizer.") and name.endswith(".exp_avg")]
    return torch.cat([tensors[name].flatten() for name in moments])


def test_an_iteration_is_the_same_on_four_ranks(ranks, digits):
    """Of one image each. The generator's gradient comes through the kinks of the pretrained network.

    There a rounding moves it by up to 0.5 %, which another step of Adam would enlarge; in double precision four ranks
    and one differ by 1e-10 after two iterations.
    """
    first, last = trained(World.single(), digits, 4, 1)
    for first_there, last_there in ranks(4).run(trained, digits, 4, 1):
        torch.testing.assert_close(first_there, first, rtol=0, atol=0)
        for player, of_norm in (("d", 1e-4), ("g", 0.03)):
            expected = gradient(last, player)
            assert (gradient(last_there, player) - expected).norm() < of_norm * expected.norm(), player
        held, held_there = (
            {name: tensor for name, tensor in tensors.items() if "optimizer" not in name}
            for tensors in (last, last_there)
        )
        torch.testing.assert_close(held_there, held, rtol=1e-3, atol=1e-3)


def test_heads_move_and_what_is_frozen_does_not(digits):
    first, last = alone(digits)
    assert not any("backbone" in name for name in last)
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    frozen = {name for name in last if name.startswith("discriminator.mixing.")}
    assert len(frozen) == 16
    assert not moved & frozen
    for part in ("heads.each.0.last.weight", "heads.each.3.blocks.0.conv.u", "heads.each.0.blocks.0.norm.running_mean"):
        assert f"discriminator.{part}" in moved
    assert "generator.start.u" in moved


def test_resume_equals_uninterrupted(digits):
    assert_resume_is_exact(*(trainer_for(digits, World.single()) for _ in range(2)))


def test_samples_are_ranked_by_the_mean_of_their_logits(digits):
    trainer = trainer_for(digits, World.single())
    judged = torch.tensor([[3.0, -1.0], [0.0, 0.0], [1.0, 0.5]])
    fake = type("Out", (), {"logits": judged})
    phase = next(phase for phase in trainer.plan.phases if phase.name == "g_main")
    scores = phase.passes[0].run.objective.score(fake).flatten(1).mean(1)
    trainer.close()
    assert scores.tolist() == [1.0, 0.0, 0.75]


def test_numbers_under_its_own_eyes_are_said_to_be_flattered(digits):
    for embedding, count in (("efficientnet", 1), ("offline", 0)):
        words = [f"evaluate.embedding={embedding}", "evaluate.metrics=[fid, coverage]", "evaluate.count=8"]
        trainer = trainer_for(digits, World.single(), words)
        opened = open_evaluation(trainer)
        trainer.close()
        assert sum("looks through the network of efficientnet" in note for note in opened.notes) == count


def test_a_micro_batch_has_no_batch_norm_of_its_own(digits):
    said = "normalises over the global batch, which accumulation=2"
    for key, other in (
        ("generator.kind=fastgan", "discriminator.kind=r3gan"),
        ("discriminator.kind=projected", "generator.kind=r3gan"),
    ):
        with pytest.raises(SpiderUsageError, match=rf"{key} {said}"):
            make_config({"data": {"path": str(digits)}}, [key, other, "accumulation=2"])


@pytest.mark.parametrize("name", [name for name in preset_names() if "projected" in name and "diffusion" not in name])
def test_every_preset_trains(digits, tmp_path, name):
    keys = {"fastgan": ["generator.ngf=2"], "stylegan2": ["generator.channel_base=64", "generator.w_dim=8"]}
    fed = [f"source.path={digits}"] if name.startswith("spider") else ["source.dim=8"]
    own = keys["stylegan2" if "stylegan2" in name else "fastgan"]
    config = load_config(name, [f"data.path={digits}", *SEEN, *fed, *own])
    trainer = Trainer(prepare(config, RunDirectory(tmp_path / "none")), World.single())
    trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    assert {"grad_norm/g_main", "grad_norm/d_main"} <= set(trainer.plan.stats.means())
