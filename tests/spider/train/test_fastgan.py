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
EXACT = [
    "compute.precision=fp64",
    "auxiliary=[{kind: reconstruction, channels: 2, distance: pixels}]",
    "selection.kind=fixed",
    "selection.k=2",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits32") / "data"
    pack("builtin:digits", folder, resolution=32, subset=64, workers=1, progress=False)
    return folder


def trainer_for(data, world, overrides=()):
    config = load_config("fastgan", [f"data.path={data}", *TINY, *overrides])
    return Trainer(prepare(config, RunDirectory(data / "none")), world)


def trained(world, data):
    """On a rank: all tensors after two iterations, and what the last of them paid."""
    trainer = trainer_for(data, world, EXACT)
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer), trainer.plan.stats.means()


def test_two_steps_are_the_same_on_two_ranks(ranks, data):
    whole, means = trained(World.single(), data)
    assert any(name.startswith("discriminator.auxiliary0.each.trunk") for name in whole)
    assert {f"auxiliary.0/{name}" for name in ("whole", "small", "quarter")} <= set(means)
    for tensors, means_there in ranks(2).run(trained, data):
        assert means_there == pytest.approx(means, rel=1e-8)
        torch.testing.assert_close(tensors, whole, rtol=1e-8, atol=1e-8)


def test_resume_equals_uninterrupted(data):
    assert_resume_is_exact(*(trainer_for(data, World.single(), EXACT) for _ in range(2)))


def test_a_skipped_step_leaves_no_trace(data):
    """Neither in batch norms and power iterations of both networks and of the decoders, nor in the average."""
    trainer = trainer_for(data, World.single(), [*EXACT, "ema.half_life_kimg=0"])
    trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    names = set(tensors_of(trainer))
    trainer.close()
    for part in ("generator.", "discriminator.blocks.", "discriminator.auxiliary0.", "generator_ema."):
        for last in (".v", ".running_var"):
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
