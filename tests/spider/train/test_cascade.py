"""A finished run as a source: frozen, numbered, to any depth, and part of what a resume compares."""

from __future__ import annotations

import shutil

import pytest
import torch

from cluster.world import World
from shards.dataset import ShardDataset
from shards.pack import pack
from spider.config.load import make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.runs.directory import RunDirectory, images_of, resolve
from spider.runs.generator import open_generator
from spider.train.loop import train
from spider.train.trainer import Trainer

CPU = torch.device("cpu")
SMALL = ["batch=8", "kimg=0.04", "generator.width=0.05", "discriminator.width=0.05", "log.samples=4"]


def run(data, path, overrides=()):
    directory = RunDirectory(path)
    config = make_config({"data": {"path": str(data)}}, [*SMALL, *overrides])
    train(config, directory, World.single(), progress=False)
    return path


@pytest.fixture(scope="module")
def stages(digits, patches, tmp_path_factory):
    """z -> 16 px colour patches -> 8 px grey digits -> digits again."""
    root = tmp_path_factory.mktemp("cascade")
    first = run(patches, root / "first")
    second = run(digits, root / "second", ["source.kind=generator", f"source.run={first}", "source.noise_std=0.1"])
    third = run(digits, root / "third", ["source.kind=generator", f"source.run={second}@last", "source.noise_std=0.1"])
    return first, second, third


def test_frozen_stages_never_move(stages, digits):
    first, second, _ = stages
    config = make_config({"data": {"path": str(digits)}}, [*SMALL, "source.kind=generator", f"source.run={second}"])
    trainer = Trainer(config, World.single())
    inner = trainer.source.stage
    before = {name: t.clone() for name, t in inner.module.state_dict().items()}
    for _ in range(3):
        trainer.iterate()
    assert all(torch.equal(t, before[name]) for name, t in inner.module.state_dict().items())
    assert not any(p.requires_grad for p in inner.module.parameters())
    assert inner.digest == open_generator(str(second), CPU).digest
    assert inner.source.stage.digest == open_generator(str(first), CPU).digest
    assert not any("stage" in group for group in trainer.snapshot().tensors)


def test_image_i_is_always_the_same_image(stages):
    for path in stages:
        generator = open_generator(str(path), CPU)
        images = generator.numbered("a", seed=3, count=100)
        torch.testing.assert_close(images.batch(60, 70), images.batch(0, 100)[60:70], rtol=0, atol=0)
        again = open_generator(str(path), CPU).numbered("b", seed=3, count=7)
        assert again.fingerprint == images.fingerprint
        torch.testing.assert_close(again.batch(0, 7), images.batch(0, 7), rtol=0, atol=0)
        assert not torch.equal(generator.images(4, range(7)), generator.images(3, range(7)))


def test_noises_of_stages_are_not_one_noise(stages):
    """The same index at two depths draws from two streams."""
    third = open_generator(str(stages[2]), CPU).source
    second = third.stage.source
    outer = third.at(0, range(4)) - third.images_at(0, range(4))
    inner = second.at(0, range(4)) - second.images_at(0, range(4))
    assert abs(float(torch.corrcoef(torch.stack([outer.flatten(), inner.flatten()]))[0, 1])) < 0.2
    assert float(outer.std()) == pytest.approx(0.1, rel=0.15)


def test_another_stage_is_refused_on_resume(stages, digits, tmp_path):
    first, second, _ = stages
    path = run(digits, tmp_path / "run", ["source.kind=generator", f"source.run={second}"])
    with pytest.raises(SpiderError, match="source: the checkpoint was trained on generator"):
        run(digits, path, ["source.kind=generator", f"source.run={first}", "kimg=0.08"])


def test_a_stage_that_was_made_longer_feeds_on_from_its_checkpoint_of_then(digits, tmp_path):
    first = run(digits, tmp_path / "first")
    second = run(digits, tmp_path / "second", ["source.kind=generator", f"source.run={first}"])
    run(digits, first, ["kimg=0.08"])
    with pytest.raises(SpiderError, match=r"source\.run=RUN@KIMG"):
        run(digits, second, ["source.kind=generator", f"source.run={first}", "kimg=0.08"])
    with pytest.raises(SpiderError, match="its source now is"):
        open_generator(str(second), CPU)
    run(digits, second, ["source.kind=generator", f"source.run={first}@0.04", "kimg=0.08"])
    assert open_generator(str(second), CPU).source.stage.digest == open_generator(f"{first}@0.04", CPU).digest


def test_a_run_whose_source_has_changed_since_is_refused(digits, patches, tmp_path):
    """It would make other images than those it is known for."""
    source = shutil.copytree(patches, tmp_path / "source")
    fed = run(digits, tmp_path / "run", ["source.kind=images", f"source.path={source}"])
    images = open_generator(str(fed), CPU).numbered("a", seed=0, count=3).batch(0, 3)
    shutil.move(source, tmp_path / "before")
    pack("builtin:patches", source, resolution=16, subset=30, workers=1, progress=False)
    then, now = ShardDataset(tmp_path / "before").fingerprint, ShardDataset(source).fingerprint
    says = f"^{fed}: the run was fed images {then} .*, and its source now is images {now} "
    for use in (
        lambda: open_generator(str(fed), CPU),
        lambda: run(digits, tmp_path / "next", ["source.kind=generator", f"source.run={fed}"]),
    ):
        with pytest.raises(SpiderError, match=says):
            use()
    shutil.rmtree(source)
    shutil.move(tmp_path / "before", source)
    assert torch.equal(open_generator(str(fed), CPU).numbered("a", seed=0, count=3).batch(0, 3), images)


def test_checkpoints_are_named_by_kimg(stages):
    path = str(stages[0])
    last = resolve(path)
    assert last.checkpoint == "000000.040-kimg"
    assert images_of(last.checkpoint) == 40
    assert resolve(f"{path}@0.04") == resolve(f"{path}@last") == last
    for wrong, says in (
        ("@7", "no checkpoint at 7 kimg; there are 0.04"),
        ("@best", "never evaluated"),
        ("@x", "a number of kimg"),
    ):
        with pytest.raises(SpiderUsageError, match=says):
            resolve(path + wrong)
    with pytest.raises(SpiderUsageError, match="no such folder"):
        resolve("nowhere")
