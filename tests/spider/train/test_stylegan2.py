"""A StyleGAN2 is the same on any number of ranks, in any micro-batches, and when it is resumed."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from cluster.world import World
from spider import api
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.train.loop import train
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of

BASE = [
    "batch=16",
    "compute.precision=fp64",
    "condition.kind=class",
    "source.dim=16",
    "generator.kind=stylegan2",
    "generator.channel_base=64",
    "generator.w_dim=8",
    "generator.mapping_layers=2",
    "discriminator.kind=stylegan2",
    "discriminator.channel_base=64",
    "discriminator.mapping_layers=2",
    "objective.kind=non_saturating",
    "penalties.r1_gamma=1",
    "penalties.phase=own",
    "penalties.interval_steps=2",
    "first_player=generator",
    "g_penalties.path_length_weight=2",
    "g_optimizer.lr=2e-3",
    "d_optimizer.lr=2e-3",
    "ema.half_life_kimg=0.1",
]


def trainer_for(data, world, overrides):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)


def trained(world, data, group, accumulation=1):
    """On a rank: all tensors after some steps."""
    trainer = trainer_for(data, world, [f"discriminator.mbstd_group={group}", f"accumulation={accumulation}"])
    for _ in range(10):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    trainer.close()
    return tensors_of(trainer)


@cache
def alone(data, group):
    return trained(World.single(), data, group)


@pytest.mark.parametrize(("size", "accumulation", "group"), [(1, 2, 8), (2, 2, 4), (4, 1, 8)])
def test_ten_steps_are_the_same_anywhere(ranks, digits, size, accumulation, group):
    """Also where a group has images of several ranks: the last case."""
    whole = alone(digits, group)
    assert whole["generator.w_avg"].any()
    assert whole["g_penalties.path_length.mean"] > 0
    for tensors in ranks(size).run(trained, digits, group, accumulation):
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)


def weights(world, data, words):
    """On a rank: the generator's, after two steps in single precision."""
    trainer = trainer_for(data, world, ["compute.precision=fp32", *words])
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    return trainer.generator.module.state_dict()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_zero_takes_the_strengths_of_the_noise_which_have_no_dimension(ranks, digits, stage):
    expected = weights(World.single(), digits, [])
    assert any(not tensor.ndim for name, tensor in expected.items() if name.endswith("noise_strength"))
    for found in ranks(2).run(weights, digits, ["engine.kind=deepspeed", f"engine.zero_stage={stage}"]):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def summed(phase, parts):
    """The gradients of the sum of what micro-batches come to, each by its own mean, as the public code takes them."""
    total = torch.zeros((), dtype=torch.float64)
    with phase.player.playing():
        for part in map(phase.prepare or (lambda part: part), parts):
            for term in [term for each in phase.passes for term in each.run(part).terms]:
                total = total + term.coefficient * term.values.mean()
        return torch.autograd.grad(total, phase.player.parameters, allow_unused=True, materialize_grads=True)


def test_gradients_are_those_of_the_public_code_by_the_number_of_micro_batches(digits):
    """Ours are of the mean over the global batch. Path length is left out: there each micro-batch has its own mean."""
    trainer = trainer_for(digits, World.single(), ["accumulation=4", "g_penalties.path_length_weight=0"])
    assert [phase.name for phase in trainer.plan.phases] == ["g_main", "d_main", "d_reg"]
    for phase in trainer.plan.phases:
        parts = trainer.feeds.draw(phase, 0, 0)
        theirs = summed(phase, parts)
        trainer.stepper.take(phase, phase.passes, parts)
        for parameter, gradient in zip(phase.player.parameters, theirs, strict=True):
            torch.testing.assert_close(len(parts) * parameter.grad, gradient, rtol=1e-9, atol=1e-12)
        assert any(gradient.norm() > 1e-3 for gradient in theirs)
        assert len(parts) == 4
    trainer.close()


def test_resume_equals_uninterrupted(digits):
    assert_resume_is_exact(*(trainer_for(digits, World.single(), []) for _ in range(2)), before=3, after=3)


def test_the_phases_of_the_public_code(digits):
    """In its order: the generator, its penalty every 4, the discriminator, its penalty every 16 iterations.

    Every step of a player has the learning rate and betas that are corrected for its penalty; R1 is the gradient by the
    image before augmentation, weighed by gamma / 2 and by the interval.
    """
    words = ["penalties.interval_steps=16", "augment=[{kind: diffaugment, policy: [color]}]", "penalties.r1_gamma=10"]
    trainer = trainer_for(digits, World.single(), words)
    _, g_reg, d_main, d_reg = phases = trainer.plan.phases
    assert [phase.name for phase in phases] == ["g_main", "g_reg", "d_main", "d_reg"]
    assert [[step for step in range(33) if phase.due(step)] for phase in (g_reg, d_reg)] == [
        [*range(0, 33, 4)], [0, 16, 32],
    ]  # fmt: skip
    trainer.iterate()
    pairs = zip(trainer.ema.module.parameters(), trainer.generator.module.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)  # its ramp begins at 0 images, not at those of the first iteration
    trainer.iterate()  # main steps alone
    for player, c in ((trainer.generator, 4 / 5), (trainer.discriminator, 16 / 17)):
        (group,) = player.optimizer.param_groups
        assert (group["lr"], *group["betas"]) == pytest.approx((2e-3 * c, 0.5**c, 0.999**c))
    trainer.feeds.draw(d_main, 2, 0)
    (part,) = trainer.feeds.draw(d_reg, 2, 0)
    with trainer.discriminator.playing():
        (r1,) = d_reg.passes[0].run(part).terms
        assert r1.coefficient == 16 * 10 / 2
        critic, at = d_reg.passes[0].run.critic, part.real.clone().requires_grad_()
        shown, told = critic._shown(part, "r1", at, part.real_condition, trainer.discriminator.module)
        assert not torch.equal(shown, at)
        slopes = torch.autograd.grad(trainer.discriminator.module(shown, told).logits.sum(), at)[0]
    torch.testing.assert_close(r1.values, slopes.square().sum((1, 2, 3)))
    trainer.close()


def test_who_begins_needs_what_it_compares():
    words = ["objective.kind=relativistic", "objective.g_reals=shared", "first_player=generator"]
    with pytest.raises(SpiderUsageError, match=r"first_player=generator: .* needs objective\.g_reals=own"):
        make_config({}, words)
    make_config({}, [*words, "objective.g_reals=own"])


def test_the_mean_of_w_heeds_whether_a_step_was_taken(digits):
    trainer = trainer_for(digits, World.single(), ["ema.half_life_kimg=0"])
    trainer.iterate()
    assert "generator.w_avg" in assert_a_skipped_step_leaves_no_trace(trainer)
    d_main, w_avg = trainer.plan.phases[-2], trainer.generator.module.w_avg
    before = w_avg.clone()
    trainer.stepper.take(d_main, d_main.passes, trainer.feeds.draw(d_main, trainer.step, 0))
    assert not torch.equal(w_avg, before)
    trainer.close()


def test_truncation_is_asked_of_a_finished_run(digits, tmp_path):
    """At 0 all images are the one of the mean of w."""
    settings = ["condition.kind=none", "generator.noise=none", "kimg=0.032", "log.samples=4"]
    for name, overrides in (
        ("style", [*BASE, *settings]),
        ("plain", ["batch=16", "kimg=0.016", "generator.width=0.1"]),
    ):
        config = make_config({"data": {"path": str(digits)}}, overrides)
        train(config, RunDirectory(tmp_path / name), World.single(), progress=False)

    def written(run, psi):
        out = tmp_path / f"psi-{psi}"
        api.generate(tmp_path / run, seeds="0-1", out=out, truncation=psi)
        return [file.read_bytes() for file in sorted(out.iterdir())]

    plain = written("style", None)
    assert plain[0] != plain[1]
    assert written("style", 1) == plain
    mean, again = written("style", 0)
    assert mean == again
    assert mean not in plain
    with pytest.raises(SpiderUsageError, match=r"--trunc 0\.5: this generator has no truncation"):
        written("plain", 0.5)
