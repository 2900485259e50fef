"""Cascades of StyleGAN2, three stages deep: what feeds never moves, and what is fed is the same anywhere."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from cluster.world import World
from spider.config.load import load_config, make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.runs.generator import open_generator, open_source
from spider.train.loop import train
from spider.train.trainer import Trainer
from tests.spider.train.laws import assert_resume_is_exact, tensors_of

CPU = torch.device("cpu")
SMALL = [
    "batch=8",
    "kimg=0.016",
    "log.samples=4",
    "log.tensorboard=false",
    "generator.kind=stylegan2",
    "generator.channel_base=32",
    "generator.w_dim=8",
    "generator.mapping_layers=1",
    "discriminator.kind=stylegan2",
    "discriminator.channel_base=32",
    "discriminator.mapping_layers=1",
    "objective.kind=non_saturating",
    "ema.half_life_kimg=0.01",
]
CLASSES = ["condition.kind=class"]


def fed_by(path, adapter="luma-23x23"):
    return ["source.kind=generator", f"source.run={path}", f"source.adapter={adapter}"]


def run(data, path, overrides=()):
    config = make_config({"data": {"path": str(data)}}, [*SMALL, *overrides])
    train(config, RunDirectory(path), World.single(), progress=False)
    return path


@pytest.fixture(scope="module")
def stages(digits, patches, tmp_path_factory):
    """z -> 8 px digits of a class -> 16 px colour patches -> digits of a class."""
    root = tmp_path_factory.mktemp("cascade")
    first = run(digits, root / "first", ["source.dim=16", *CLASSES])
    second = run(patches, root / "second", fed_by(first, "projection"))
    return first, second, run(digits, root / "third", [*fed_by(second), *CLASSES])


def trainer_for(data, source, *overrides, world=None):
    given = [*SMALL, *fed_by(source), *CLASSES, *overrides]
    return Trainer(make_config({"data": {"path": str(data)}}, given), world or World.single())


def test_frozen_stages_never_move(stages, digits):
    trainer = trainer_for(digits, stages[1])
    second = trainer.source.stage
    first = second.source.stage
    before = deepcopy([stage.module.state_dict() for stage in (first, second)])
    for _ in range(3):
        trainer.iterate()
    trainer.close()
    for stage, held in zip((first, second), before, strict=True):
        assert held["w_avg"].any()
        assert all(torch.equal(tensor, held[name]) for name, tensor in stage.module.state_dict().items())
    told = trainer.source.provenance()["stage"]
    assert (told["generator"], told["source"]["stage"]["generator"]) == (second.digest, first.digest)
    assert second.digest == open_generator(str(stages[1]), CPU).digest


def test_image_i_is_always_the_same_image(stages):
    for path in stages:
        generator = open_generator(str(path), CPU)
        images = generator.numbered("a", seed=3, count=70)
        torch.testing.assert_close(images.batch(60, 70), images.batch(0, 70)[60:70], rtol=0, atol=0)


def trained(world, data, source, accumulation=1):
    """On a rank: all tensors after some steps."""
    settings = ["compute.precision=fp64", f"accumulation={accumulation}", "discriminator.mbstd_group=2"]
    trainer = trainer_for(data, source, *settings, world=world)
    for _ in range(3):
        trainer.iterate()
    trainer.close()
    return tensors_of(trainer)


def test_steps_are_the_same_anywhere(ranks, digits, stages):
    whole = trained(World.single(), digits, stages[1])
    for tensors in ranks(2).run(trained, digits, stages[1], 2):
        torch.testing.assert_close(tensors, whole, rtol=1e-8, atol=1e-8)


def test_resume_equals_uninterrupted(digits, stages):
    assert_resume_is_exact(*(trainer_for(digits, stages[1]) for _ in range(2)))


def test_another_stage_is_refused_on_resume(digits, stages, tmp_path):
    path = run(digits, tmp_path / "run", fed_by(stages[1]))
    for source in (fed_by(stages[0]), [*fed_by(stages[1]), "source.truncation=0.5"]):
        with pytest.raises(SpiderError, match=r"source"):
            run(digits, path, [*source, "kimg=0.032"])


def mixed_with(trainer):
    """The inputs of a batch, and those with which styles are mixed."""
    [batch] = trainer.feeds.draw(trainer.plan.phases[0], 0, 0)
    trainer.close()
    return batch.source, batch.fake_condition.draws


def test_styles_are_mixed_with_other_images_of_the_source(digits, stages):
    """Of the same law as the images' own, and none of them."""
    images, draws = mixed_with(trainer_for(digits, stages[1]))
    others = draws["mixing.source"]
    assert others.shape == images.shape == (8, 3, 16, 16)
    assert (images[:, None] - others[None]).abs().amax((2, 3, 4)).min() > 1e-3
    _, draws = mixed_with(trainer_for(digits, stages[1], "generator.mixing_source=gaussian"))
    assert not draws


def test_the_second_style_comes_through_the_adapter(digits, stages):
    trainer = trainer_for(digits, stages[1], "generator.style_mixing=1")
    network = trainer.generator.module
    [batch] = trainer.feeds.draw(trainer.plan.phases[0], 0, 0)
    given = trainer.plan.phases[0].passes[0].run.maker._told(batch)
    trainer.close()
    ws = network(batch.source, given).latents
    other = network.mapping(network.frontend(given.draws["mixing.source"]), given)
    torch.testing.assert_close(ws[:, -1], other)


def stage_of(path, **settings):
    """The source of a run that is not trained: the frozen generator of `path`, and its images."""
    config = make_config({"data": {"path": "d"}}, [*fed_by(path), *(f"source.{k}={v}" for k, v in settings.items())])
    return open_source(config.source, (1, 8, 8), CPU)


def test_a_stage_has_noise_of_each_image_or_of_all(stages):
    own, shared = stage_of(stages[1]), stage_of(stages[1], stage_noise="const")
    assert len({own.identity, shared.identity}) == 2
    noises = [source.stage.condition_at(seed, [3, 7]).draws["noise"] for source in (own, shared) for seed in (0, 1)]
    assert not any(torch.equal(one, other) for one, other in noises[:2])
    assert all(torch.equal(each, noises[2][:1].expand(2, -1)) for each in noises[2:])


def test_a_stage_is_truncated_if_it_is_asked(stages, digits, tmp_path):
    """At 0, without noise of its own and without a class, every image is that of the mean of w."""
    source = stage_of(stages[1], truncation=0, stage_noise="const")
    images = source.at(0, range(3))
    torch.testing.assert_close(images[:1].expand(3, -1, -1, -1), images)
    assert source.identity != stage_of(stages[1], stage_noise="const").identity
    plain = tmp_path / "plain"
    config = make_config({"data": {"path": str(digits)}}, ["batch=8", "kimg=0.008", "generator.width=0.05"])
    train(config, RunDirectory(plain), World.single(), progress=False)
    with pytest.raises(SpiderUsageError, match=r"source\.truncation=0\.5: .*has no mapping network"):
        stage_of(plain, truncation=0.5)


@pytest.mark.parametrize("name", ["spider-stylegan2", "spider-stylegan3"])
def test_a_preset_trains(digits, patches, stages, name):
    """At a tiny size, fed by a run."""
    data = patches if name.endswith("3") else digits
    small = ["batch=8", "generator.channel_base=32", "generator.w_dim=8", "discriminator.channel_base=32"]
    config = load_config(name, [f"data.path={data}", *small, f"source.run={stages[0]}"])
    trainer = Trainer(config, World.single())
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    assert trainer.generator.module.frontend.shape == (512,)
    assert trainer.source.stage.shares_draws
    images = trainer.frozen().images(0, range(2))
    assert images.shape == (2, *trainer.dataset.index.shape)
