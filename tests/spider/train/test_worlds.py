"""A run is the same on 1, 2 and 4 ranks, and with its batch in one piece or in micro-batches."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from cluster.world import World
from spider.config.load import make_config
from spider.runs.directory import RunDirectory
from spider.train.loop import train
from spider.train.trainer import Trainer
from tests.every_axis import EVERY_AXIS

BASE = [
    "batch=16",
    "compute.precision=fp64",
    "generator.width=0.1",
    "discriminator.width=0.1",
    "generator.norm=none",
    "g_optimizer.lr=2e-3",
    "d_optimizer.lr=2e-3",
    "g_optimizer.beta1=0.0",
    "penalties.r1_gamma=1",
    "ema.half_life_kimg=0.1",
]
STEPS = 20  # more than an epoch of the 300 images
WORLDS = [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]


def trained(world, data, overrides, steps):
    """On a rank: parameters and average after some steps, p, every step's k, and the row of numbers."""
    trainer = Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)
    ks = []
    for _ in range(steps):
        trainer.iterate()
        ks.append(trainer.plan.selection.last_k)
    modules = {"g": trainer.generator.module, "ema": trainer.ema.module, "d": trainer.discriminator.module}
    state = {f"{key}.{name}": t.detach() for key, m in modules.items() for name, t in m.state_dict().items()}
    return state, trainer.plan.overfit.p, ks, trainer.plan.stats.means()


def first_gradients(world, data, overrides):
    """On a rank: the gradients that the first iteration left behind, and the real images and sources that it saw."""
    trainer = Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)
    drawn = trainer.feeds.draw(trainer.plan.phases[0], 0, 0)
    trainer.feeds.close()
    trainer.iterate()
    players = (trainer.generator, trainer.discriminator)
    gradients = {player.name: torch.cat([p.grad.flatten() for _, p in player.trainable]) for player in players}
    return gradients, [(part.real, part.source) for part in drawn]


METHODS = {
    "every-axis": [*EVERY_AXIS, "penalties.r2_gamma=0.5", "data.mirror=true"],
    "plain": [],
    "atopk-augmented": [
        "augment=[{kind: mirror}, {kind: ada, control: {p_start: 0.5, rise_kimg: 0.3}}, {kind: diffaugment}]",
        "selection.kind=adaptive",
        "selection.k_unit=2",
        "overfit.rise_kimg=0.3",
        "overfit.target=-0.5",
    ],
    "topk-gp": ["selection.kind=fixed", "selection.k=2", "objective.kind=hinge", "penalties.gp_weight=1", "d_steps=2"],
    "lecam": ["auxiliary=[{kind: lecam, decay: 0.9}]", "objective.kind=hinge", "d_steps=2"],
    "relativistic": ["objective.kind=relativistic", "penalties.r2_gamma=1", "selection.kind=fixed", "selection.k=6"],
    "sliced": ["objective.slicing=true", "selection.kind=fixed", "selection.k=6", "d_steps=2"],
    "classes-apa": [
        "condition.kind=class",
        "condition.sampler=balanced",
        "condition.temperature=2",
        "augment=[{kind: apa, control: {p_start: 0.5, rise_kimg: 0.3}}]",
        "penalties.phase=own",
        "penalties.interval_steps=4",
        "d_steps=2",
    ],
}
CASES = [("every-axis", *world) for world in WORLDS]
CASES += [(name, *world) for name in list(METHODS)[1:] for world in ((2, 1), (4, 2))]


@cache
def alone(data, method):
    """So many steps in one process."""
    return trained(World.single(), data, METHODS[method], STEPS)


@pytest.mark.parametrize(("method", "size", "accumulation"), CASES)
def test_all_steps_are_the_same_anywhere(ranks, digits, method, size, accumulation):
    """In float64: parameters to 1e-9, the same p and k at every step."""
    whole, p, ks, means = alone(digits, method)
    overrides = [*METHODS[method], f"accumulation={accumulation}"]
    for state, p_there, ks_there, means_there in ranks(size).run(trained, digits, overrides, STEPS):
        for name, tensor in whole.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-9)
        assert p_there == p
        assert ks_there == ks
        assert means_there == pytest.approx(means, rel=1e-9, abs=1e-12)
    if "adaptive" in str(METHODS[method]):
        assert p > 0
        assert min(ks) < 16


@pytest.mark.parametrize(
    ("size", "accumulation", "norm"), [*((*world, "none") for world in WORLDS), (2, 1, "batch"), (4, 1, "batch")]
)
def test_one_step_gradients_agree_in_float32(ranks, digits, size, accumulation, norm):
    """To 1e-5 of each player's gradient, and the same images in the same slots."""
    overrides = ["compute.precision=fp32", f"generator.norm={norm}", f"discriminator.norm={norm}"]
    whole, [(real, source)] = first_gradients(World.single(), digits, overrides)
    for rank, (gradients, drawn) in enumerate(
        ranks(size).run(first_gradients, digits, [*overrides, f"accumulation={accumulation}"])
    ):
        for player, gradient in whole.items():
            assert (gradients[player] - gradient).norm() < 1e-5 * gradient.norm(), player
        for m, (real_there, source_there) in enumerate(drawn):
            torch.testing.assert_close(real_there, real[rank::size][m::accumulation], rtol=0, atol=0)
            torch.testing.assert_close(source_there, source[rank::size][m::accumulation], rtol=0, atol=0)


def batch_norm_run(world, data):
    """On a rank: ten steps with batch normalisation in both networks."""
    return trained(world, data, ["generator.norm=batch", "discriminator.norm=batch", "penalties.r1_gamma=0.1"], 10)[0]


@pytest.fixture(scope="module")
def normed(digits):
    """What they come to in one process."""
    return batch_norm_run(World.single(), digits)


@pytest.mark.parametrize("size", [2, 4])
def test_batch_norm_sees_the_global_batch(ranks, digits, normed, size):
    for state in ranks(size).run(batch_norm_run, digits):
        for name, tensor in normed.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-7, atol=1e-9)


@pytest.fixture(scope="module")
def fed(patches, tmp_path_factory):
    """Ways to feed a Spider GAN and to order its images, as overrides."""
    stage = tmp_path_factory.mktemp("runs") / "stage"
    settings = ["compute.precision=fp64", "batch=8", "kimg=0.04", "generator.width=0.05", "discriminator.width=0.05"]
    config = make_config({"data": {"path": str(patches)}}, [*settings, "log.samples=4"])
    train(config, RunDirectory(stage), World.single(), progress=False)
    images = ["source.kind=images", f"source.path={patches}", "d_steps=2"]
    return {
        "images": images,
        "generator": ["source.kind=generator", f"source.run={stage}", "source.noise_std=0.1", "d_steps=2"],
        "shard-local": [*images, "source.order=shard_local", "data.order=shard_local"],
    }


@pytest.mark.parametrize("feeding", ["images", "generator", "shard-local"])
def test_feeding_is_the_same_on_two_ranks(ranks, digits, fed, feeding):
    """In float64: the same inputs in the same slots, gradients to 1e-9, and so parameters after some epochs."""
    overrides = fed[feeding]
    gradients, [(real, source)] = first_gradients(World.single(), digits, overrides)
    for rank, (there, [(real_there, source_there)]) in enumerate(ranks(2).run(first_gradients, digits, overrides)):
        torch.testing.assert_close(real_there, real[rank::2], rtol=0, atol=0)
        torch.testing.assert_close(source_there, source[rank::2], rtol=0, atol=1e-6)
        for player, gradient in gradients.items():
            assert (there[player] - gradient).norm() < 1e-9 * gradient.norm(), player
    whole = trained(World.single(), digits, overrides, STEPS)[0]
    for state, *_ in ranks(2).run(trained, digits, overrides, STEPS):
        for name, tensor in whole.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-9)
