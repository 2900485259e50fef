"""FastGAN is the same on two ranks and when it is resumed: two sizes, decoders that train with D, drawn margins."""

from __future__ import annotations

import pytest
import torch

from cluster.world import World
from shards.pack import pack
from spider.config.load import load_config
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of

TINY = ["source.dim=8", "generator.ngf=2", "discriminator.ndf=2", "batch=4"]
RECONSTRUCTION = "{kind: reconstruction, channels: 2, distance: pixels}"
EXACT = [
    "compute.precision=fp64",
    f"auxiliary=[{RECONSTRUCTION}]",
    "selection.kind=fixed",
    "selection.k=2",
]
CHAIN = f"auxiliary=[{RECONSTRUCTION}, {{kind: chain, least: 0.1, target: -0.99, step: 0.3}}]"
NORMS = {
    "batch": EXACT,
    "chain": [*EXACT, CHAIN, "discriminator.norm=chain", "penalties.r1_gamma=1"],
    "chain_cumulative": [*EXACT, CHAIN, "discriminator.norm=chain_cumulative"],
}
norms = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits32") / "data"
    pack("builtin:digits", folder, resolution=32, subset=64, workers=1, progress=False)
    return folder


def trainer_for(data, world, overrides=()):
    config = load_config("fastgan", [f"data.path={data}", *TINY, *overrides])
    return Trainer(prepare(config, RunDirectory(data / "none")), world)


def trained(world, data, norm):
    """On a rank: all tensors after two iterations, and what the last of them paid."""
    trainer = trainer_for(data, world, NORMS[norm])
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer), trainer.plan.stats.means()


@norms
def test_two_steps_are_the_same_on_two_ranks(ranks, data, norm):
    whole, means = trained(World.single(), data, norm)
    assert any(name.startswith("discriminator.auxiliary0.each.trunk") for name in whole)
    assert {f"auxiliary.0/{name}" for name in ("whole", "small", "quarter")} <= set(means)
    for tensors, means_there in ranks(2).run(trained, data, norm):
        assert means_there == pytest.approx(means, rel=1e-8)
        torch.testing.assert_close(tensors, whole, rtol=1e-8, atol=1e-8)


@norms
def test_resume_equals_uninterrupted(data, norm):
    assert_resume_is_exact(*(trainer_for(data, World.single(), NORMS[norm]) for _ in range(2)), before=2)


@norms
def test_a_skipped_step_leaves_no_trace(data, norm):
    """Neither in norms and power iterations of both networks and of the decoders, nor in the average."""
    trainer = trainer_for(data, World.single(), [*NORMS[norm], "ema.half_life_kimg=0"])
    trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    names = set(tensors_of(trainer))
    trainer.close()
    own = {"batch": (".v", ".running_var"), "chain": (".v",), "chain_cumulative": (".v", ".squares", ".slopes")}
    moving = dict.fromkeys(("generator.", "discriminator.auxiliary0.", "generator_ema."), own["batch"])
    for part, lasts in {**moving, "discriminator.blocks.": own[norm]}.items():
        for last in lasts:
            found = {name for name in names if name.startswith(part) and name.endswith(last)}
            assert found, (part, last)
            assert found <= moved, (part, last)


def test_the_preset_trains_and_saves_no_distance(data):
    trainer = trainer_for(data, World.single())
    first = tensors_of(trainer)
    trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    decoders = [name for name in first if name.startswith("discriminator.auxiliary0")]
    assert decoders
    assert not any("_network" in name or "distance" in name for name in first)
    weight = "discriminator.auxiliary0.each.small.to_image.weight"
    assert not torch.equal(first[weight], tensors_of(trainer)[weight])
