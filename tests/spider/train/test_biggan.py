"""BigGAN is the same on any number of ranks and when it is resumed; its micro-batches may have their own statistics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cluster.world import World
from shards.pack import pack
from spider.cli.main import app
from spider.config.load import load_config, make_config, preset_names
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of

TINY = ["generator.ch=2", "discriminator.ch=2", "generator.embedding_dim=4", "batch=4"]
BASE = [
    *TINY,
    "source.dim=8",
    "generator.kind=biggan",
    "generator.attention=[16]",
    "discriminator.kind=biggan",
    "discriminator.attention=[16]",
    "compute.precision=fp64",
    "objective.kind=hinge",
    "d_steps=2",
    "ema={half_life_kimg: 0.1, rampup: null, statistics: averaged}",
    "g_optimizer={lr: 1e-3, beta1: 0, eps: 1e-6}",
]
TOLD = {
    "classes": ["condition.kind=class", "objective.slicing=true"],
    "instances": ["condition.kind=tests.spider.train.toys:Instances", "generator.instance_dim=4"],
    "nothing": ["selection.kind=fixed", "selection.k=2", "penalties.r1_gamma=1"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits32") / "data"
    pack("builtin:digits", folder, resolution=32, subset=64, workers=1, progress=False)
    return folder


def trainer_for(data, world, overrides=()):
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *overrides]), world)


def trained(world, data, overrides):
    """On a rank: all tensors after two iterations."""
    trainer = trainer_for(data, world, overrides)
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer)


@pytest.mark.parametrize(("told", "size"), [*((told, 2) for told in TOLD), ("classes", 4)])
def test_two_steps_are_the_same_on_any_number_of_ranks(ranks, data, told, size):
    whole = trained(World.single(), data, TOLD[told])
    for tensors in ranks(size).run(trained, data, TOLD[told]):
        torch.testing.assert_close(tensors, whole, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("told", TOLD)
def test_resume_equals_uninterrupted(data, told):
    assert_resume_is_exact(*(trainer_for(data, World.single(), TOLD[told]) for _ in range(2)))


def test_a_skipped_step_leaves_no_trace(data):
    trainer = trainer_for(data, World.single(), ["ema.half_life_kimg=0", "ema.statistics=copied"])
    trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    trainer.close()
    for name in ("blocks.8.norms.0.norm.running_mean", "blocks.8.convs.0.u", "told.embedding.weight"):
        assert f"generator.{name}" in moved
    assert "discriminator.told.embedding.u" not in moved  # of one row it is 1 or -1


def test_micro_batches_have_statistics_of_their_own(data):
    """So other weights are learnt than by the whole batch; and a run goes on exactly."""
    words = ["generator.statistics=micro_batch", "accumulation=2"]
    apart, whole = (trained(World.single(), data, chosen) for chosen in (words, words[:1]))
    name = "generator.blocks.16.convs.0.weight"
    assert not torch.allclose(apart[name], whole[name])
    assert_resume_is_exact(*(trainer_for(data, World.single(), words) for _ in range(2)))


SIDES = {"32": 32, "lt64": 64, "coco128": 128, "256": 256}  # one of each kind


@pytest.mark.parametrize("name", [name for name in preset_names() if name.removeprefix("biggan/") in SIDES])
def test_presets_train(tmp_path, name):
    """One of each kind. The others are composed by tests/spider/config."""
    side, folder = SIDES[name.removeprefix("biggan/")], tmp_path / "data"
    pack("builtin:digits", folder, resolution=side, subset=8, workers=1, progress=False)
    accumulated = ["accumulation=2"] if name == "biggan/256" else []
    config = load_config(name, [f"data.path={folder}", *TINY, *accumulated])
    trainer = Trainer(prepare(config, RunDirectory(tmp_path / "none")), World.single())
    trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    assert {"grad_norm/g_main", "grad_norm/d_main"} <= set(trainer.plan.stats.means())


def test_the_command_of_the_readme_trains_on_a_packed_folder(data, tmp_path):
    text = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    (line,) = re.findall(r"^\.venv/bin/spider (train biggan/32 .*)$", text, re.MULTILINE)
    words = line.replace("data/cifar10", str(data)).replace("runs/biggan", str(tmp_path / "run")).split()
    small = ["generator.ch=2", "discriminator.ch=2", "batch=4", "kimg=0.004", "log.samples=4", "log.tensorboard=false"]
    with pytest.raises(SystemExit) as end:
        app([*words, *small], prog_name="spider")
    assert not end.value.code
    run = RunDirectory(tmp_path / "run")
    assert run.success_file.exists()
    assert (run.config().condition.kind, run.config().generator.kind) == ("class", "biggan")
