"""InsGen is the same on any number of ranks, in any micro-batches, and when it is resumed."""

from __future__ import annotations

import pytest
import torch

from cluster.world import World
from spider import api
from spider.config.load import load_config, make_config
from spider.errors import SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.settings.auto import OfImages, filled
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_a_skipped_step_leaves_no_trace, assert_resume_is_exact, tensors_of

BASE = [
    "batch=8",
    "compute.precision=fp64",
    "generator.kind=stylegan2",
    "generator.channel_base=64",
    "generator.w_dim=8",
    "generator.mapping_layers=2",
    "discriminator.kind=stylegan2",
    "discriminator.channel_base=64",
    "discriminator.mbstd_group=null",
    "objective.kind=non_saturating",
    "selection.kind=fixed",
    "selection.k=4",
    "augment=[{kind: diffaugment}]",
    "auxiliary=[{kind: insgen, queue: 12, momentum: 0.9}]",
]


def trainer_for(data, world, overrides=()):
    source = [] if any(each.startswith("source") for each in overrides) else ["source.dim=8"]
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, *source, *overrides]), world)


def trained(world, data, overrides=()):
    """On a rank: all tensors after three iterations."""
    trainer = trainer_for(data, world, overrides)
    for _ in range(3):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    return tensors_of(trainer)


STD = "discriminator.mbstd_group=4"


@pytest.mark.parametrize(
    ("size", "fed", "parts"),
    [
        (2, [], ["accumulation=2"]),
        (4, [], ["accumulation=2"]),
        (2, [STD, "batch=12"], []),  # a group in two ranks
        (2, ["source.kind=images", "source.adapter=projection", "source.noise_std=0.1"], ["accumulation=2"]),
    ],
    ids=["vectors", "vectors-4", "std", "images"],
)
def test_it_is_the_same_on_more_ranks_in_micro_batches(ranks, digits, size, fed, parts):
    """Fed vectors, or images of another set. Terms are of all images, also where the selection leaves some out."""
    fed = [*fed, f"source.path={digits}"] if "source.kind=images" in fed else fed
    whole = trained(World.single(), digits, fed)
    assert whole["auxiliary.0.real.pushes"] == 3
    assert whole["auxiliary.0.fake.place"] == 0  # 24 or 36 keys, in a queue of 12
    assert any(name.startswith("discriminator.auxiliary0.discriminator_average.") for name in whole)
    for tensors in ranks(size).run(trained, digits, [*fed, *parts]):
        torch.testing.assert_close(tensors, whole, rtol=1e-5, atol=1e-6)


def test_resume_equals_uninterrupted(digits):
    assert_resume_is_exact(*(trainer_for(digits, World.single()) for _ in range(2)), before=2)


def test_a_skipped_step_leaves_no_trace(digits):
    """Neither in the averages of D and of the heads, nor in the queues, which a good step moves."""
    trainer = trainer_for(digits, World.single(), ["ema.half_life_kimg=0"])
    trainer.iterate()
    moved = assert_a_skipped_step_leaves_no_trace(trainer)
    queues = {f"auxiliary.0.{name}" for name in trainer.plan.methods["auxiliary.0"].tensors()}
    averages = {name for name in tensors_of(trainer) if "_average." in name}
    trainer.close()
    assert len(queues) == 8
    assert len(averages) > 8
    assert queues | averages <= moved


@pytest.mark.parametrize(("mirror", "published"), [(False, 15), (True, 30)])
def test_an_open_queue_follows_the_images_and_stays(digits, tmp_path, mirror, published):
    """5 % of 300 images, twice as many where they are mirrored. The run keeps the number, and goes on."""
    tiny = [
        "source.dim=8",
        "generator.channel_base=64",
        "generator.w_dim=8",
        "discriminator.channel_base=64",
        "batch=4",
    ]
    quiet = ["discriminator.mbstd_group=4", "log.samples=1", "evaluate.every_kimg=null"]
    words = [*tiny, *quiet, f"data.mirror={mirror}"]
    for kimg in (0.004, 0.008) if mirror else (0.004,):
        api.train("insgen", tmp_path / "run", data=digits, kimg=kimg, overrides=words)
    (insgen,) = RunDirectory(tmp_path / "run").config().auxiliary
    assert insgen.queue == published
    queue = "auxiliary=[{kind: insgen, queue: 7}]"
    with pytest.raises(SpiderUsageError, match=rf"auxiliary\.0\.queue: {published} -> 7"):
        api.train("insgen", tmp_path / "run", data=digits, kimg=0.012, overrides=[*words, queue])


def test_a_queue_holds_a_key_at_least():
    config = load_config("insgen", ["data.path=none"])
    assert filled(config, OfImages(side=64, count=19))["auxiliary.0.queue"] == 1


@pytest.mark.parametrize("name", ["insgen", "fakeclr"])
def test_every_preset_trains(digits, tmp_path, name):
    tiny = [
        "source.dim=8",
        "generator.channel_base=64",
        "generator.w_dim=8",
        "discriminator.channel_base=64",
        "batch=4",
    ]
    config = load_config(name, [f"data.path={digits}", "discriminator.mbstd_group=4", *tiny])
    trainer = Trainer(prepare(config, RunDirectory(tmp_path / "none")), World.single())
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    means = trainer.plan.stats.means()
    assert means["auxiliary.0/fake"] > 0
    assert ("auxiliary.0/real" in means) == (name == "insgen")
