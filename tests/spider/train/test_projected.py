"""A Projected GAN is the same on any number of ranks and when it is resumed; what is frozen in it never moves."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch

from cluster.world import World
from spider.config.load import load_config, make_config, preset_names
from spider.errors import SpiderError, SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.runs.stored import require_same_inputs
from spider.settings.marks import named
from spider.train.evaluator import open_evaluation
from spider.train.trainer import Trainer
from tests.deit import deit_state
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of

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
DIFFUSION = "{kind: diffusion, into: maps, control: {p_start: 0.5, interval_steps: 1, rise_kimg: 0.02, target: -0.9}}"


def trainer_for(data, world, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)


def trained(world, data, batch=2, iterations=2, overrides=()):
    """On a rank: all tensors at first and after some iterations."""
    trainer = trainer_for(data, world, [f"batch={batch}", *overrides])
    first = tensors_of(trainer)
    for _ in range(iterations):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    trainer.close()
    return first, tensors_of(trainer)


@cache
def alone(data):
    return trained(World.single(), data)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A tiny transformer, and EfficientNet-Lite0."""
    file = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model": deit_state(grid=8)}, file)
    return (f"discriminator.backbones=[{{kind: deit, weights: {file}}}, {{kind: efficientnet_lite0}}]",)


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


def assert_gradients_agree(found, expected):
    """The generator's comes through the kinks of the pretrained network, by which a rounding moves it."""
    for player, of_norm in (("d", 1e-4), ("g", 0.03)):
        here = gradient(expected, player)
        assert (gradient(found, player) - here).norm() < of_norm * here.norm(), player


def test_an_iteration_is_the_same_on_four_ranks(ranks, digits):
    """Of one image each. A rounding moves the generator's gradient by up to 0.5 %, which another step would enlarge.

    In double precision four ranks and one differ by 1e-10 after two iterations.
    """
    first, last = trained(World.single(), digits, 4, 1)
    for first_there, last_there in ranks(4).run(trained, digits, 4, 1):
        torch.testing.assert_close(first_there, first, rtol=0, atol=0)
        assert_gradients_agree(last_there, last)
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


def test_two_networks_are_looked_through_alike_on_two_ranks(ranks, digits, two):
    """What is frozen, the random layers too, begins alike on all ranks, and stays; each network's heads move."""
    first, last = trained(World.single(), digits, 2, 1, two)
    for first_there, last_there in ranks(2).run(trained, digits, 2, 1, two):
        torch.testing.assert_close(first_there, first, rtol=0, atol=0)
        assert_gradients_agree(last_there, last)
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    others = {name for name in last if name.startswith("discriminator.others.0.")}
    frozen = {name for name in last if "mixing" in name or "backbone" in name}
    assert len(frozen) == 2 * 16 + 14  # two mixings, and the random layers after the transformer
    assert not moved & frozen
    assert any(name.startswith("discriminator.heads.each.0") for name in moved)
    assert "discriminator.others.0.heads.each.0.last.weight" in moved & others


def test_resume_equals_uninterrupted(digits):
    assert_resume_is_exact(*(trainer_for(digits, World.single()) for _ in range(2)))


def test_resume_equals_uninterrupted_with_two_networks(digits, two):
    assert_resume_is_exact(*(trainer_for(digits, World.single(), two) for _ in range(2)))


def noised_maps(noised):
    return [f"augment=[{{kind: diffaugment, cutout: 0.2}}, {DIFFUSION}]", f"discriminator.noised={noised}"]


def diffused(world, data, noised):
    """On a rank: all tensors, and where the diffusion stands, after an iteration whose maps are noised."""
    trainer = trainer_for(data, world, noised_maps(noised))
    trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer), trainer.snapshot().state["augment.1"]


@pytest.mark.parametrize("noised", ["first", "last"])
def test_maps_are_noised_alike_on_two_ranks(ranks, digits, noised):
    """And noise is seen in D's gradient."""
    whole, state = diffused(World.single(), digits, noised)
    assert state["p"] == pytest.approx(0.6)
    for there, state_there in ranks(2).run(diffused, digits, noised):
        assert state_there == state
        assert_gradients_agree(there, whole)
    _, clean = trained(World.single(), digits, iterations=1)
    assert (gradient(clean, "d") - gradient(whole, "d")).norm() > 0.1 * gradient(whole, "d").norm()


def test_resume_equals_uninterrupted_while_noise_of_maps_grows(digits):
    assert_resume_is_exact(*(trainer_for(digits, World.single(), noised_maps("first")) for _ in range(2)))


def begun(world, data):
    """On a rank: what a checkpoint holds after an iteration."""
    trainer = trainer_for(data, world)
    trainer.iterate()
    trainer.close()
    return trainer.snapshot()


def gone_on(world, data, snapshot):
    """On a rank: all tensors after one more iteration, by a discriminator that has drawn no such random layers."""
    trainer = trainer_for(data, world)
    with torch.no_grad():
        for frozen in trainer.discriminator.module.mixing.parameters():
            frozen.zero_()
    trainer.load(snapshot)
    trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer)


def test_a_run_goes_on_the_same_at_another_world_size(ranks, digits):
    """From one rank on two, and from two on one: what is random and frozen exactly, the rest up to rounding."""
    first, last = alone(digits)
    on_two = ranks(2).run(gone_on, digits, begun(World.single(), digits))
    on_one = gone_on(World.single(), digits, deepcopy(ranks(2).run(begun, digits)[0]))
    for found in (*on_two, on_one):
        torch.testing.assert_close(found, last, rtol=1e-3, atol=1e-3)
        for name in first:
            assert ".mixing." not in name or torch.equal(found[name], first[name]), name


def test_a_skipped_step_leaves_no_trace(digits):
    """Neither in batch norms and power iterations of both networks, nor in p, which the noise of maps follows."""
    seldom = [word.replace("interval_steps: 1", "interval_steps: 5") for word in noised_maps("first")]
    trainer = trainer_for(digits, World.single(), [*seldom, "ema.half_life_kimg=0"])
    trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    trainer.close()
    assert {f"discriminator.heads.each.0.blocks.0.{name}" for name in ("conv.u", "norm.running_var")} <= moved
    assert {"generator.start.u", "generator.start_norm.running_var", "generator_ema.start.weight"} <= moved
    assert not any(".mixing." in name for name in moved)


def test_a_run_does_not_go_on_with_other_weights(digits, two, tmp_path):
    torch.save(deit_state(grid=8, classes=4), tmp_path / "other.pth")
    trainer = trainer_for(digits, World.single(), two)
    other = trainer_for(digits, World.single(), [*two, f"discriminator.backbones.0.weights={tmp_path}/other.pth"])
    with pytest.raises(
        SpiderError, match=r"^discriminator\.backbone\.network: the checkpoint was trained with weights"
    ):
        require_same_inputs(trainer.snapshot(), other.snapshot(), other.config)
    assert [each.key for each in named(other.config, "discriminator")] == ["discriminator.backbones.0.weights"]
    for each in (trainer, other):
        each.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["weights=x.pth", "backbones=[{kind: deit}]"], "discriminator.weights goes without discriminator.backbones"),
        (["backbones=[{kind: deit}, {kind: deit}]", "noised=first"], "discriminator.noised=first goes with one "),
        (["backbones=[{kind: vgg}]"], "0.kind: found 'vgg', allowed: efficientnet_lite0, deit, torchvision, timm$"),
        (["backbones=[{kind: torchvision, network: resnet50}]"], "discriminator.backbones.0.weights: missing"),
        (["backbones=[{kind: torchvision, network: vgg16, weights: x.pth}]"], "allowed: resnet18, resnet34, resnet50"),
        (["backbones=[{kind: timm, network: 'hf-hub:a/b', weights: x.pth}]"], "discriminator.backbones.0.network: "),
        (["backbones=[deit]"], "discriminator.backbones.0: must be a section"),
        (["backbones=[{kind: deit, size: base}]"], "discriminator.backbones.0.size: no such key"),
    ],
)
def test_backbones_that_cannot_be_are_refused_before_weights_are_read(digits, words, said):
    with pytest.raises(SpiderUsageError, match=said):
        make_config({"data": {"path": str(digits)}}, [*BASE, *(f"discriminator.{word}" for word in words)])


def test_samples_are_ranked_by_the_mean_of_their_logits(digits):
    """Of the pass that teaches the generator itself, from the images of a batch to the scores that selection sees."""
    trainer = trainer_for(digits, World.single())
    phase = next(phase for phase in trainer.plan.phases if phase.name == "g_main")
    whole, *_ = trainer.feeds.draw(phase, trainer.step, 0)
    run = phase.passes[0].run
    with phase.player.playing(), torch.no_grad():
        seen = run(whole)
        made = run.maker(whole)
        judged = run.critic(whole, "fake", made.images, whole.fake_condition).out.logits
    trainer.close()
    assert judged.shape[1] > 1
    torch.testing.assert_close(seen.scores.flatten(), judged.mean(1), rtol=1e-5, atol=1e-6)


def test_numbers_under_its_own_eyes_are_said_to_be_flattered(digits, two):
    for embedding, count in (("efficientnet", 1), ("offline", 0)):
        words = [*two, f"evaluate.embedding={embedding}", "evaluate.metrics=[fid, coverage]", "evaluate.count=8"]
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


def test_micro_batches_have_statistics_of_their_own_by_option(digits):
    """So other weights are learnt than by the whole batch; and a run goes on exactly."""
    words = ["batch=4", "generator.statistics=micro_batch", "discriminator.statistics=micro_batch"]
    parts = [*words, "accumulation=2"]
    (_, apart), (_, whole) = (trained(World.single(), digits, 4, 1, chosen) for chosen in (parts, words))
    name = "discriminator.heads.each.0.blocks.0.norm.running_var"
    assert not torch.allclose(apart[name], whole[name])
    assert_resume_is_exact(*(trainer_for(digits, World.single(), parts) for _ in range(2)))


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
