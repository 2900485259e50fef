"""Classes in a training: whose label each image bears, images without one, and what a finished generator makes."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.world import World
from shards.balance import quotas
from shards.dataset import ShardDataset
from shards.order import Slots
from shards.pack import pack
from spider import api, draws
from spider.config.load import make_config
from spider.config.schema import Config
from spider.errors import SpiderUsageError
from spider.gan.conditions.classes import UNLABELLED, Classes
from spider.gan.conditions.config import ClassConditionConfig
from spider.gan.networks.r3gan_config import R3ganConfig
from spider.gan.outputs import Condition
from spider.judge.embed.features import extract_features
from spider.judge.embed.images import classes_of
from spider.judge.embed.load import load_embedding
from spider.judge.metrics.frechet import frechet_distance
from spider.judge.metrics.moments import moments_of
from spider.pictures.sample_grids import class_rows, grid_of_samples
from spider.runs.generator import open_generator
from spider.train.trainer import Trainer

CPU = torch.device("cpu")
SMALL = ["batch=16", "generator.width=0.05", "discriminator.width=0.05", "condition.kind=class"]


def trainer_for(data, overrides=(), world=None):
    return Trainer(make_config({"data": {"path": str(data)}}, [*SMALL, *overrides]), world or World.single())


def drawn(trainer, steps=3):
    """What every phase of some iterations drew: (name, batch), in order."""
    found = []
    for step in range(steps):
        for phase in trainer.plan.phases:
            if phase.due(step):
                found += [
                    (phase.name, part) for turn in range(phase.repeat) for part in trainer.feeds.draw(phase, step, turn)
                ]
    trainer.close()
    return found


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """20 images 8 x 8: 12 cats, 5 dogs, 3 without a label."""
    path = tmp_path_factory.mktemp("partly") / "partly.tar"
    rng = np.random.default_rng(0)
    names = [*(f"{i:02d}.png" for i in range(20))]
    labels = [[name, "cat"] for name in names[:12]] + [[name, "dog"] for name in names[12:17]]
    files = {"dataset.json": json.dumps({"labels": labels}).encode()}
    for name in names:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(buffer, "PNG")
        files[name] = buffer.getvalue()
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    out = path.parent / "packed"
    pack(path, out, workers=1, progress=False)
    return out


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A finished run with classes, of two steps."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    overrides = [*SMALL, "log.samples=8", "log.tensorboard=false", "generator.conditioning=batch_norm"]
    api.train("dcgan", path, data=digits, kimg=0.032, overrides=overrides)
    return path


# ------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("sampler", ["data", "balanced"])
def test_real_images_bear_their_own_labels(digits, sampler):
    trainer = trainer_for(digits, [f"condition.sampler={sampler}"])
    order = trainer.conditions.order(trainer.dataset, "full", draws.torch_seed(0, "train.real"), 16)
    pixels, labels = trainer.dataset.read_batch(range(len(trainer.dataset)))
    for number, (_, batch) in enumerate(each for each in drawn(trainer) if each[0] == "d_main"):
        if sampler == "balanced":
            expected = labels[order(16 * number, 16 * (number + 1))]
            assert batch.real_condition.labels.tolist() == expected.tolist()
        images = (batch.real * 127.5 + 127.5).round().to(torch.uint8).numpy()
        for image, label in zip(images, batch.real_condition.labels.tolist(), strict=True):
            assert label in labels[(pixels == image).all(axis=(1, 2, 3))]


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ([], lambda counts: counts),
        (["condition.fakes=uniform"], lambda counts: [1] * len(counts)),
        (["condition.sampler=balanced", "condition.temperature=3"], lambda counts: quotas(counts, 3)),
    ],
    ids=["as_data", "uniform", "balanced"],
)
def test_labels_of_generated_images_are_the_addressed_draws(digits, overrides, shares):
    """Number u of the deck in which every class lies as often as its share says."""
    trainer = trainer_for(digits, ["d_steps=2", *overrides])
    counts = np.bincount(trainer.dataset.labels())
    deck = np.repeat(np.arange(len(counts)), shares(counts))
    seen = {"d_main": 0, "g_main": 0}
    for phase, batch in drawn(trainer):
        positions = range(seen[phase], seen[phase] + 16)
        numbers = draws.integers(0, f"train.{phase}.condition", positions, (), len(deck))
        assert batch.fake_condition.labels.tolist() == deck[numbers].tolist()
        seen[phase] += 16
    assert seen == {"d_main": 96, "g_main": 48}


def test_paired_labels_are_the_reals(digits):
    keys = ["objective.kind=relativistic", "penalties.phase=own", "penalties.interval_steps=2", "penalties.r2_gamma=1"]
    batches = drawn(trainer_for(digits, keys))
    assert {name for name, _ in batches} == {"d_main", "d_reg", "g_main"}
    for _, batch in batches:
        assert torch.equal(batch.fake_condition.labels, batch.real_condition.labels)


def test_a_relativistic_objective_may_compare_other_classes(digits):
    batches = drawn(trainer_for(digits, ["objective.kind=relativistic", "condition.fakes=as_data"]))
    assert any(not torch.equal(b.fake_condition.labels, b.real_condition.labels) for _, b in batches)


def test_each_player_is_told_the_labels_of_what_it_sees(digits, monkeypatch):
    trainer = trainer_for(digits, ["penalties.r1_gamma=1", "penalties.r2_gamma=1"])
    told, forward = [], trainer.discriminator.module.forward

    def note(images, condition):
        told.append(condition.labels)
        return forward(images, condition)

    monkeypatch.setattr(trainer.discriminator.module, "forward", note)
    [d_main, g_main] = drawn(trainer_for(digits), steps=1)
    trainer.iterate()
    real, fake, other = d_main[1].real_condition, d_main[1].fake_condition, g_main[1].fake_condition
    for labels, expected in zip(told, [real, fake, real, fake, other], strict=True):
        assert torch.equal(labels, expected.labels)


# ---------------------------------------------------------------------------------------------- images without a label


def test_an_image_without_a_label_is_refused(partly):
    says = r"^condition\.unlabelled=refuse: 3 of 20 images of .* have no label; .*skip leaves them out, own_class"
    with pytest.raises(SpiderUsageError, match=says):
        trainer_for(partly)


@pytest.mark.parametrize("order", ["data.order=full", "data.order=shard_local", "condition.sampler=balanced"])
def test_an_image_without_a_label_is_left_out_and_counted(partly, order, tmp_path, capfd):
    trainer = trainer_for(partly, ["condition.unlabelled=skip", "batch=17", order])
    assert trainer.conditions.names == ["cat", "dog"]
    reals = [batch.real_condition.labels for name, batch in drawn(trainer) if name == "d_main"]
    cats, dogs = (12, 5) if order.startswith("data") else (9, 8)
    assert [torch.bincount(labels).tolist() for labels in reals] == [[cats, dogs]] * 3
    keys = [*SMALL, "condition.unlabelled=skip", order, "log.samples=4", "log.tensorboard=false"]
    api.train("dcgan", tmp_path / "run", data=partly, kimg=0.016, overrides=keys, progress=True)
    assert "condition.unlabelled=skip: 3 images have no label and are left out; 17 are learnt" in capfd.readouterr().err


def test_images_without_a_label_are_a_class_of_their_own(partly):
    trainer = trainer_for(partly, ["condition.unlabelled=own_class", "batch=20"])
    assert trainer.conditions.names == ["cat", "dog", UNLABELLED]
    batch = next(part for name, part in drawn(trainer) if name == "d_main")
    assert torch.bincount(batch.real_condition.labels).tolist() == [12, 5, 3]


def test_data_without_classes_is_refused(patches):
    with pytest.raises(SpiderUsageError, match=r"^condition\.kind=class: .* has no labels; pack images in class"):
        trainer_for(patches, ["condition.unlabelled=skip"])


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["condition.fakes=paired"], r"condition\.fakes=paired .* objective\.kind=relativistic"),
        (["condition.sampler=balanced", "data.order=shard_local"], r"condition\.sampler=balanced .* data\.order=shard"),
        (["condition.temperature=2"], r"condition\.temperature goes with condition\.sampler=balanced"),
        (["generator.conditioning=batch_norm", "generator.norm=none"], r"generator\.conditioning=batch_norm needs"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_keys(overrides, says):
    with pytest.raises(SpiderUsageError, match=says):
        make_config({}, ["condition.kind=class", *overrides])


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_network_that_cannot_be_told_is_refused_by_its_key(monkeypatch, player):
    monkeypatch.setattr(R3ganConfig, "conditions", frozenset())
    with pytest.raises(SpiderUsageError, match=rf"{player}\.kind=r3gan cannot be told a class"):
        make_config({}, ["condition.kind=class", f"{player}.kind=r3gan"])
    assert isinstance(make_config({}, [f"{player}.kind=r3gan"]), Config)


# ------------------------------------------------------------------------------------------------- finished generators


def test_a_sample_has_the_same_class_always(run, digits):
    generator, labels = open_generator(str(run), CPU), ShardDataset(digits).labels()
    found = classes_of(generator.numbered("", seed=3, count=200))
    deck = np.sort(labels)
    assert found.labels.tolist() == deck[draws.integers(3, "eval.condition", range(200), (), len(deck))].tolist()
    assert found.names == list("0123456789")
    few = generator.condition_at(3, [150, 7]).labels
    assert few.tolist() == found.labels[[150, 7]].tolist()


def test_images_that_are_shown_are_those_that_are_measured(run):
    samples = open_generator(str(run), CPU).numbered("", seed=3, count=200)
    numbers = [150, 7, 199, 64]
    shown = samples.shown(numbers).int()
    measured = torch.cat([samples.batch(number, number + 1) for number in numbers]).int()
    assert (shown - measured).abs().max() <= 1
    assert len(shown.flatten(1).unique(dim=0)) == len(numbers)


def test_generate_makes_what_the_network_makes_of_that_class(run, tmp_path):
    generator = open_generator(str(run), CPU)
    written = api.generate(run, seeds="3,1", classes=["7", "2"], out=tmp_path / "a", grid=tmp_path / "grid.png")
    assert written.classes == ["7", "2"]
    assert written.files == [f"class{c:04d}-seed{n:06d}.png" for c in (7, 2) for n in (3, 1)]
    for label in (7, 2):
        made = generator(generator.source.at(0, range(64)), Condition(torch.full((64,), label)))
        for number in (3, 1):
            file = tmp_path / "a" / f"class{label:04d}-seed{number:06d}.png"
            shown = torch.from_numpy(np.array(Image.open(file)))
            assert torch.equal(shown, (made[number, 0] * 127.5 + 128).clamp(0, 255).to(torch.uint8))
    label = int(generator.condition_at(0, [0]).labels)
    [own] = api.generate(run, seeds="0", out=tmp_path / "b").files
    [asked] = api.generate(run, seeds="0", classes=[str(label)], out=tmp_path / "b").files
    assert (tmp_path / "b" / own).read_bytes() == (tmp_path / "b" / asked).read_bytes()


def cells(pixels, columns, rows):
    """The images of a grid of digits, by rows, without names and captions: 8 x 8 pixels, each 8 x 8 there."""
    side, gap = 64, 16
    left = pixels.shape[1] - columns * (side + gap)
    pitch = (pixels.shape[0] - gap) // rows
    return [
        [pixels[gap + r * pitch :, left + c * (side + gap) :][:side:8, :side:8, 0] for c in range(columns)]
        for r in range(rows)
    ]


def test_grids_have_a_row_for_each_class(run, digits):
    """Eight samples are two rows of four, of classes that are spread over all."""
    assert class_rows(range(10), 80) == ([*range(10)], 8)
    assert class_rows(range(10), 50) == ([*range(10)], 5)
    assert class_rows([3, 5, 9, 11], 8) == ([3, 9], 4)
    assert class_rows(range(1000), 32) == ([*range(0, 1000, 125)], 4)
    generator = open_generator(str(run), CPU)
    shown = cells(grid_of_samples(generator, 8), 4, 2)
    for row, label in zip(shown, (0, 5), strict=True):
        made = generator.images(0, range(4), Condition(torch.full((4,), label)))[:, 0]
        for cell, image in zip(row, made, strict=True):
            torch.testing.assert_close(torch.from_numpy(cell / 127.5 - 1).float(), image, atol=0.01, rtol=0)
    dataset, reals = ShardDataset(digits), np.array(Image.open(run / "samples" / "reals.png"))
    pixels, labels = dataset.read_batch(range(len(dataset)))
    for row, label in zip(cells(reals, 4, 2), (0, 5), strict=True):
        for cell in row:
            assert label in labels[(pixels[:, 0] == cell).all(axis=(1, 2))]


def test_a_class_that_is_none_is_refused(run, trained):
    with pytest.raises(SpiderUsageError, match=r"^--class: class 'cat' is unknown; known: 0, 1, .* from 0 to 9"):
        api.generate(run, seeds="0", classes=["cat"], out="unused")
    with pytest.raises(SpiderUsageError, match=r"^--class: 7 and 07 are the same class$"):
        api.generate(run, seeds="0", classes=["7", "07"], out="unused")
    with pytest.raises(SpiderUsageError, match=r"^--class: class 1: the generator was trained without classes"):
        api.generate(trained, seeds="0", classes=["1"], out="unused")


def test_names_come_before_numbers():
    classes = Classes(ClassConditionConfig(), ["1", "0", "b"], [1, 1, 1], paired=False)
    assert [classes.class_number(name) for name in ("1", "0", "2", "b")] == [0, 1, 2, 2]


def test_classes_are_blended_between_the_corners(run, tmp_path):
    generator = open_generator(str(run), CPU)
    shares = torch.tensor([[1.0] + [0.0] * 9, [0.0, 1.0] + [0.0] * 8, [0.5, 0.5] + [0.0] * 8])
    z = generator.source.at(0, [5]).expand(3, -1)
    blended, pure = generator(z, Condition(shares)), generator(z, Condition(torch.tensor([0, 1, 0])))
    torch.testing.assert_close(blended[:2], pure[:2])
    assert not torch.allclose(blended[2], pure[2])
    made = api.interpolate(run, tmp_path / "grid.png", classes=["3", "4", "5", "6"], steps=3)
    assert made.images == 9
    with pytest.raises(SpiderUsageError, match=r"^--class: 2 classes for 4 images"):
        api.interpolate(run, tmp_path / "grid.png", classes=["3", "4"])


def test_distances_by_class_are_those_of_the_classes_alone(run, digits, tmp_path, monkeypatch):
    """Of classes with enough images in both sets; the value is their mean."""
    monkeypatch.setattr("spider.judge.metrics.by_class.LEAST", 30)
    monkeypatch.setattr("spider.judge.metrics.scores.LEAST", 30)
    options = {"embedding": "offline", "seeds": 1, "world": World.single()}
    found = api.evaluate(run, data=digits, metrics="fid_class", count=300, **options)
    [result, _] = found.results  # and the nearest training images, as of every run of few
    assert result.label == "FD by class[offline]"
    rows = result.details["classes"]
    dataset, samples = ShardDataset(digits), open_generator(str(run), CPU).numbered("", 0, 300)
    for row, number in zip(rows, range(10), strict=True):
        counts = [int((images.labels() == number).sum()) for images in (samples, dataset)]
        assert (row["class"], row["samples"], row["reference"]) == (str(number), *counts)
        assert (row["value"] is None) == (min(counts) < 30)
    measured = [row["value"] for row in rows if row["value"] is not None]
    assert 0 < len(measured) < 10
    assert result.value == pytest.approx(np.mean(measured))
    assert f"{10 - len(measured)} of 10 classes left out, with fewer than 30 images in a set: " in result.warnings[0]
    network = load_embedding("offline", device=CPU)
    features = [extract_features(images, network, World.single()) for images in (samples, dataset)]
    number = next(i for i, row in enumerate(rows) if row["value"] is not None)
    chosen = [rows_[images.labels() == number] for rows_, images in zip(features, (samples, dataset), strict=True)]
    alone = frechet_distance(*(moments_of(each, World.single()) for each in chosen))
    assert rows[number]["value"] == pytest.approx(alone, rel=1e-6)
    assert len(found.table().split("reference\n")[1].splitlines()) >= 10
    none = api.evaluate(run, data=digits, metrics="fid_class", count=20, **options)
    assert "10 of 10 classes left out" in none.table()
    assert "reference\n" not in none.table()  # no table of nothing
    found = api.evaluate(run, reference=digits, metrics="fid_class", count=60, classes=["3"], **options)
    assert [row["class"] for row in found.results[0].details["classes"]] == ["3"]
    assert not any("left out" in warning for warning in found.results[0].warnings)
    pack("builtin:digits", tmp_path / "plain", subset=60, labels="none", workers=1, progress=False)
    with pytest.raises(SpiderUsageError, match=r"needs classes, and plain has none"):
        api.evaluate(run, reference=tmp_path / "plain", metrics="fid_class", count=60, **options)


def test_distances_by_stratum_are_of_the_classes_with_so_many_training_images(run, digits, monkeypatch):
    counts = np.bincount(ShardDataset(digits).labels())
    few, many = (int(each) for each in np.sort(counts)[[3, 6]])
    monkeypatch.setattr("spider.judge.metrics.by_class.LEAST", 2)
    monkeypatch.setattr("spider.judge.metrics.by_class._MANY", many)
    monkeypatch.setattr("spider.judge.metrics.by_class._FEW", few)
    options = {"embedding": "offline", "seeds": 1, "world": World.single()}
    found = api.evaluate(run, data=digits, metrics="fid_class,fid_strata", count=400, **options)
    result = next(each for each in found.results if each.name == "fid_strata")
    assert [word for word in ("class ", "stratum") if f"\n{word}" in found.table()] == ["class ", "stratum"]
    strata = [counts > many, (counts >= few) & (counts <= many), counts < few]
    network, dataset = load_embedding("offline", device=CPU), ShardDataset(digits)
    samples = open_generator(str(run), CPU).numbered("", 0, 400)
    features = [extract_features(images, network, World.single()) for images in (samples, dataset)]
    for row, stratum in zip(result.details["classes"], strata, strict=True):
        chosen = [np.isin(images.labels(), np.flatnonzero(stratum)) for images in (samples, dataset)]
        assert (row["samples"], row["reference"]) == tuple(int(each.sum()) for each in chosen)
        laws = [moments_of(rows[each], World.single()) for rows, each in zip(features, chosen, strict=True)]
        assert row["value"] == pytest.approx(frechet_distance(*laws), rel=1e-6)
    assert result.value == pytest.approx(np.mean([row["value"] for row in result.details["classes"]]))


def test_strata_are_of_a_run_that_knows_its_classes(digits):
    with pytest.raises(SpiderUsageError, match="measure a run that was trained with classes"):
        api.evaluate(digits, reference=digits, metrics="fid_strata", embedding="offline")


def test_a_metric_of_classes_is_refused_at_the_start_of_a_training_without(digits, tmp_path):
    keys = ["evaluate.every_kimg=1", "evaluate.embedding=offline", "evaluate.metrics=[fid,fid_class]"]
    with pytest.raises(SpiderUsageError, match=r"^evaluate\.metrics: .* needs classes, and the generator has none"):
        api.train("dcgan", tmp_path / "run", data=digits, overrides=keys)


# ----------------------------------------------------------------------------------------------------- spider sources


def test_the_class_of_a_source_image_is_not_told(digits, patches):
    """The condition is of the target: with images for a source the draws are those of a prior's run."""
    keys = ["source.kind=images", f"source.path={digits}"]
    fed, plain = (drawn(trainer_for(digits, extra)) for extra in (keys, []))
    for (_, one), (_, other) in zip(fed, plain, strict=True):
        assert torch.equal(one.fake_condition.labels, other.fake_condition.labels)
    trainer_for(digits, ["source.kind=images", f"source.path={patches}"])  # which have no labels


def test_a_stage_with_classes_feeds_every_class(run, digits):
    """Its inputs for training have classes of their own, drawn anew for every position; sample N has class N's."""
    source = trainer_for(digits, ["source.kind=generator", f"source.run={run}", "source.noise_std=0"]).source
    stage, slots = source.stage, Slots(16)
    for start, fed in zip((32, 48), source.feed(0, slots, 32), strict=False):
        told = stage.conditions.drawn(0, "train.source.condition1", slots.at(start), CPU)
        assert len(set(told.labels.tolist())) > 3
        z = next(stage.source.feed(0, slots, start))
        torch.testing.assert_close(fed, stage(z, told))
    torch.testing.assert_close(
        source.images_at(3, [5, 9]), stage(stage.source.at(3, [5, 9]), stage.condition_at(3, [5, 9]))
    )
