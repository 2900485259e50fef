"""Instances in a training: what is read for which, what fakes are told, and what a finished generator keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.world import World
from shards.dataset import ShardDataset
from shards.pack import pack
from spider import api
from spider.config.load import make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.conditions.bank import InstanceBank
from spider.gan.conditions.instances import Instances
from spider.gan.outputs import Condition
from spider.gan.pixels import to_uint8
from spider.judge.instances.photos import read_photos
from spider.judge.of_classes import only_of
from spider.pictures.generate import told_by_bank
from spider.pictures.grids import sample_grid
from spider.pictures.interpolate import interpolate
from spider.pictures.request import InterpolateRequest
from spider.runs.generator import open_generator
from spider.train.trainer import Trainer
from tests.spider.train import toys
from tests.spider.train.laws import assert_resume_is_exact
from untrusted.errors import UnreadableError

CPU = torch.device("cpu")
TOYS = [f"generator.kind={toys.__name__}:Told", f"discriminator.kind={toys.__name__}:Told", "batch=12"]

PLAIN = ["condition.classes=true", "condition.flips=false"]


@pytest.fixture(scope="module")
def bank(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("bank") / "digits.safetensors"
    api.instances(digits, out, embedding="offline", neighbors=4, centres=30, flips=True)
    return out


def words(bank, *more):
    return [*TOYS, "condition.kind=instance", f"condition.bank={bank}", *more]


def trainer_for(data, bank, *more, world=None):
    config = make_config({"data": {"path": str(data)}}, words(bank, *more))
    return Trainer(config, world or World.single())


def drawn(trainer, steps):
    """The batches of the discriminator's phase."""
    phase = next(each for each in trainer.plan.phases if each.reals == "own")
    found = [part for step in range(steps) for part in trainer.feeds.draw(phase, step, 0)]
    trainer.close()
    return found


def instances_of(features, *rows):
    """Which instances have these features, each of `rows`."""
    numbers = []
    for feature in features:
        near = [np.abs(each.astype(np.float32) - feature.numpy()).max(1) for each in rows if each is not None]
        numbers.append({int(distance.argmin()) for distance in near if distance.min() == 0})
    return numbers


@pytest.mark.parametrize("sampler", ["instances", "balanced_instances", "classes"])
def test_a_real_image_is_a_neighbour_of_the_instance_that_it_is_told_of(digits, bank, sampler):
    trainer = trainer_for(digits, bank, f"condition.sampler={sampler}", *PLAIN)
    opened, dataset = InstanceBank.open(bank), ShardDataset(digits)
    pixels, labels = dataset.read_batch(range(len(dataset)))
    flat = torch.from_numpy(pixels).flatten(1)
    for batch in drawn(trainer, 8):
        told = instances_of(batch.real_condition.features, opened.features)
        for image, instances, label in zip(batch.real, told, batch.real_condition.labels, strict=True):
            shown = ((image.flatten() + 1) * 127.5).round().to(torch.uint8)
            same = set((flat == shown).all(1).nonzero().flatten().tolist())
            wanted = {int(n) for i in instances for n in opened.neighbors[i]}
            if sampler == "classes":  # the image is drawn, and its instance is near it
                wanted = same if any(set(opened.neighbors[n]) & instances for n in same) else set()
            assert same & wanted
            assert int(label) in {int(labels[n]) for n in same}


def test_every_instance_comes_once_per_epoch(digits, bank):
    trainer = trainer_for(digits, bank, "condition.flips=false")
    opened = InstanceBank.open(bank)
    count = len(opened)
    batches = drawn(trainer, count // 12)
    told = [i for batch in batches for i in instances_of(batch.real_condition.features, opened.features)]
    assert len({min(each) for each in told if len(each) == 1}) == sum(len(each) == 1 for each in told)
    assert sum(len(each) == 1 for each in told) > 0.9 * len(told)


def test_half_of_the_features_are_of_flipped_images(digits, bank):
    trainer = trainer_for(digits, bank)
    opened = InstanceBank.open(bank)
    for which in ("real_condition", "fake_condition"):
        features = torch.cat([getattr(batch, which).features for batch in drawn(trainer, 20)])
        plain = [bool(each) for each in instances_of(features, opened.features)]
        flipped = [bool(each) for each in instances_of(features, opened.features_flipped)]
        assert all(a or b for a, b in zip(plain, flipped, strict=True))
        assert 0.3 < np.mean(flipped) < 0.7


def with_bank(digits, folder, *, long_tail, centres):
    """A long-tailed set of digits, and its bank."""
    api.pack(digits, folder / "set", long_tail=long_tail)
    api.instances(folder / "set", folder / "bank.safetensors", embedding="offline", neighbors=4, centres=centres)
    return folder / "set", folder / "bank.safetensors"


@pytest.fixture(scope="module")
def tail(digits, tmp_path_factory):
    """A long-tailed set: 182 images of one digit to 9 of another; and its bank."""
    return with_bank(digits, tmp_path_factory.mktemp("tail"), long_tail=20, centres=30)


@pytest.mark.parametrize("sampler", ["instances", "balanced_instances", "classes"])
def test_fakes_are_told_what_reals_are_told(tail, sampler):
    """Instances of their own, and classes, in the same shares, also of pairs of an instance's class and a class."""
    data, bank = tail
    trainer = trainer_for(data, bank, f"condition.sampler={sampler}", *PLAIN)
    opened, labels = InstanceBank.open(bank), ShardDataset(data).labels()
    reals = [batch.real_condition for batch in drawn(trainer, 300)]
    fakes = trainer.conditions.drawn(0, "test", range(3600), CPU)
    pairs = []
    for features, told in (
        (torch.cat([each.features for each in reals]), torch.cat([each.labels for each in reals])),
        (fakes.features, fakes.labels),
    ):
        near = torch.cdist(features, torch.from_numpy(opened.features.astype(np.float32))).argmin(1)
        own = torch.from_numpy(labels)[near]
        pairs.append(torch.bincount(own * 10 + told, minlength=100) / len(told))
    assert (pairs[0] - pairs[1]).abs().max() < 0.02
    assert (pairs[0] - pairs[1]).abs().sum() < 0.2
    of_class = pairs[1].view(10, 10).sum(0)
    if sampler == "classes":
        assert of_class.tolist() == pytest.approx([0.1] * 10, abs=0.02)
    if sampler == "balanced_instances":
        assert pairs[1].view(10, 10).sum(1).tolist() == pytest.approx([0.1] * 10, abs=0.02)
    if sampler == "instances":
        assert of_class.max() > 0.2


def test_numbered_samples_are_of_instances_that_the_generator_keeps(digits, bank):
    opened = InstanceBank.open(bank)
    trainer = trainer_for(digits, bank)
    condition = trainer.conditions.at(0, range(50), CPU)
    told = instances_of(condition.features, opened.features[opened.centres])
    assert all(told)
    assert len(set.union(*told)) > 15
    assert len(trainer_for(digits, bank, "condition.stored=all").conditions.features) == len(opened)
    again = trainer.conditions.at(0, [7, 3], CPU).features
    assert torch.equal(again, condition.features[[7, 3]])


def test_numbered_samples_may_be_of_all_classes_alike(tail):
    """As a balanced reference asks for, such as the validation set of ImageNet-LT."""
    data, bank = tail
    trainer = trainer_for(data, bank, "condition.classes=true", "condition.samples=uniform", "condition.stored=all")
    told = trainer.conditions.at(0, range(3000), CPU)
    shares = torch.bincount(told.labels, minlength=10) / 3000
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.02)
    opened, labels = InstanceBank.open(bank), ShardDataset(data).labels()
    for instances, label in zip(instances_of(told.features[:100], opened.features), told.labels, strict=False):
        assert int(label) in {int(each) for i in instances for each in labels[opened.neighbors[i]]}
    again = trainer.conditions.at(0, [7, 3], CPU)
    assert torch.equal(again.labels, told.labels[[7, 3]])
    assert torch.equal(again.features, told.features[[7, 3]])
    later = trainer_for(data, bank, "condition.classes=true", "condition.stored=all").conditions.with_classes_alike()
    assert later.identity == trainer.conditions.identity
    found = later.at(0, range(3000), CPU)
    assert torch.equal(found.labels, told.labels)
    assert torch.equal(found.features, told.features)


def test_a_class_that_no_stored_instance_is_near_to_cannot_be_balanced(lone):
    conditions = trainer_for(*lone, "condition.classes=true").conditions
    with pytest.raises(SpiderUsageError, match=r"no stored instance is near .*; a run with condition.samples=uniform"):
        conditions.with_classes_alike()
    near = {int(label) for label in conditions.labels.flatten()}
    of_two = conditions.among([str(label) for label in sorted(near)[:2]]).with_classes_alike()
    shares = torch.bincount(of_two.at(0, range(2000), CPU).labels, minlength=10) / 2000
    assert sorted(shares.tolist())[-2:] == pytest.approx([0.5, 0.5], abs=0.04)
    opened = InstanceBank.open(lone[1])
    told = conditions.of_bank(opened, alike=True).with_classes_alike().at(0, range(2000), CPU)
    assert len(set(told.labels.tolist())) == 10
    with pytest.raises(SpiderUsageError, match="for runs with classes"):
        trainer_for(*lone).conditions.with_classes_alike()


@pytest.fixture(scope="module")
def lone(digits, tmp_path_factory):
    """A set in which one digit has one image, which is a neighbour of none; and its bank, with few centres."""
    return with_bank(digits, tmp_path_factory.mktemp("lone"), long_tail=182, centres=12)


@pytest.mark.parametrize("stored", ["all", "centres"])
def test_numbered_samples_are_of_rare_classes_too(lone, stored):
    """Also of one whose only image no instance is near to, and of those that no centre is near to."""
    data, bank = lone
    opened, labels = InstanceBank.open(bank), ShardDataset(data).labels()
    near = labels[opened.neighbors if stored == "all" else opened.neighbors[opened.centres]]
    missing = set(range(10)) - set(near.flatten().tolist())
    rarest = int(np.bincount(labels).argmin())
    assert int((labels == rarest).sum()) == 1
    assert rarest in missing
    assert len(missing) > (0 if stored == "all" else 1)
    asked = ["condition.classes=true", "condition.samples=uniform", f"condition.stored={stored}"]
    told = trainer_for(data, bank, *asked).conditions.at(0, range(3000), CPU)
    shares = torch.bincount(told.labels, minlength=10) / 3000
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.02)
    beside = {int(label): set() for label in set(range(10)) - set(labels[opened.neighbors].flatten().tolist())}
    for label, others in beside.items():  # classes that are near to no instance
        others |= {int(each) for each in opened.neighbors[labels == label, 0]}
    for instances, label in zip(instances_of(told.features[:200], opened.features), told.labels, strict=False):
        of_near = {int(each) for i in instances for each in labels[opened.neighbors[i]]}
        assert int(label) in of_near or beside[int(label)] & instances


def test_a_bank_of_the_run_keeps_rare_classes_too(lone, tmp_path):
    data, bank = lone
    asked = words(bank, "condition.classes=true", "condition.samples=uniform")
    api.train("dcgan", run=tmp_path / "run", data=data, kimg=0.012, overrides=asked)
    generator = open_generator(str(tmp_path / "run"), CPU)
    told = told_by_bank(generator, bank).conditions.at(0, range(300), CPU)
    own = generator.conditions.at(0, range(300), CPU)
    assert torch.equal(told.labels, own.labels)
    assert torch.equal(told.features, own.features)
    assert len(set(told.labels.tolist())) == 10


SAMPLERS = ["instances", "balanced_instances", "classes"]


def told_on_rank(world, data, bank):
    batches = []
    for sampler in SAMPLERS:
        trainer = trainer_for(data, bank, "condition.classes=true", f"condition.sampler={sampler}", world=world)
        batches += drawn(trainer, 3)
    conditions = [(batch, batch.real_condition, batch.fake_condition) for batch in batches]
    return [(batch.real, real.features, real.labels, fake.features, fake.labels) for batch, real, fake in conditions]


def test_they_are_the_same_at_any_world_size(ranks, digits, bank):
    whole = told_on_rank(World.single(), digits, bank)
    parts = ranks(3).run(told_on_rank, digits, bank)
    for step, expected in enumerate(whole):
        for which, tensor in enumerate(expected):
            rebuilt = torch.stack([part[step][which] for part in parts], 1).flatten(0, 1)
            assert torch.equal(rebuilt, tensor)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_run_draws_the_same(tail, sampler):
    told = ["condition.classes=true", f"condition.sampler={sampler}"]
    trainer, other = (trainer_for(*tail, *told) for _ in range(2))
    assert_resume_is_exact(trainer, other, before=2, after=3)


def test_a_finished_generator_needs_no_bank(digits, bank, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(bank.read_bytes())
    more = ["condition.classes=true", "log.every_kimg=1"]
    api.train("dcgan", run=tmp_path / "run", data=digits, kimg=0.024, overrides=[*words(mine, *more)])
    mine.unlink()
    generator = open_generator(str(tmp_path / "run"), CPU)
    trainer = trainer_for(digits, bank, *more)
    assert torch.equal(
        generator.conditions.at(0, range(9), CPU).features, trainer.conditions.at(0, range(9), CPU).features
    )
    plain, of_class = generator.told(0, range(5)), generator.told(0, range(5), 3)
    assert torch.equal(plain.features, of_class.features)
    assert of_class.labels.tolist() == [3] * 5
    api.generate(tmp_path / "run", out=tmp_path / "out", seeds="0-3", classes=["2"])
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_checkpoint_that_does_not_say_how_images_were_made_is_read(digits, bank):
    """Those of runs from before: as a bank from before, of the images that are learnt, cropped."""
    conditions = trainer_for(digits, bank).conditions
    state = {key: value for key, value in conditions.state().items() if key not in ("size", "crop")}
    again = Instances.of_state(state, conditions.tensors(), alike=False)
    assert (again.known["size"], again.known["crop"]) == ((0, 0), "center")
    assert again.identity == conditions.identity
    with pytest.raises(UnreadableError, match="condition: embedding: field required"):
        Instances.of_state({}, conditions.tensors(), alike=False)


def test_a_bank_that_changed_is_refused(digits, bank, tmp_path):
    mine, run = tmp_path / "mine.safetensors", tmp_path / "run"
    mine.write_bytes(bank.read_bytes())
    api.train("dcgan", run=run, data=digits, kimg=0.012, overrides=words(mine))
    api.instances(digits, mine, embedding="offline", neighbors=3, centres=30)
    with pytest.raises(SpiderUsageError, match=r"condition.bank: the run has read .* holds something else"):
        api.train("dcgan", run=run, data=digits, kimg=0.024, overrides=words(mine))


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        (
            ["condition.neighbors=5"],
            r"has the nearest 4 of each image; give condition\.neighbors=4, or make .* --neighbors 5$",
        ),
        (["condition.samples=uniform"], "condition.samples=uniform goes with condition.classes=true"),
        (["condition.temperature=2"], "goes with condition.sampler=balanced_instances or classes"),
        (["data.order=shard_local"], "data.order=shard_local cannot be held"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(digits, bank, more, refusal):
    with pytest.raises(SpiderUsageError, match=refusal):
        trainer_for(digits, bank, *more)


def test_a_bank_of_other_images_is_refused(digits, patches, bank, tmp_path):
    with pytest.raises(SpiderUsageError, match="is a bank of digits"):
        trainer_for(patches, bank)
    api.instances(patches, tmp_path / "p.safetensors", embedding="offline", neighbors=4)
    with pytest.raises(SpiderUsageError, match=r"condition.flips=true: .* has no features of flipped images"):
        trainer_for(patches, tmp_path / "p.safetensors", "condition.flips=true")
    with pytest.raises(SpiderUsageError, match=r"condition.classes=true: .* has no labels"):
        trainer_for(patches, tmp_path / "p.safetensors", "condition.classes=true")


@pytest.fixture(scope="module")
def run(digits, bank, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    api.train("dcgan", run=run, data=digits, kimg=0.024, overrides=words(bank))
    return run


def photo(digits, number, path):
    pixels, _, _ = ShardDataset(digits).read(number)
    Image.fromarray(pixels[0]).save(path)
    return path


def test_a_photo_gives_what_the_instance_of_the_same_image_gives(run, digits, bank, tmp_path):
    """A file with the pixels of a training image: the generator is told what the bank has of it."""
    opened = InstanceBank.open(bank)
    generator = open_generator(str(run), CPU)
    file = photo(digits, 11, tmp_path / "eleven.png")
    photos = read_photos([file], generator)
    assert photos.features[0].numpy() == pytest.approx(opened.features[11].astype(np.float32), abs=1e-3)
    written = api.generate(run, instances=[file], seeds="0,5", out=tmp_path / "out", grid=tmp_path / "grid.png")
    assert written.files == ["eleven-seed000000.png", "eleven-seed000005.png"]
    told = replace(generator.told(0, [0, 5]), features=photos.features.expand(2, -1))
    for file, image in zip(written.files, to_uint8(generator.images(0, [0, 5], told)), strict=True):
        assert (np.asarray(Image.open(tmp_path / "out" / file)) == image[0].numpy()).all()


def test_a_photo_is_made_as_the_images_of_the_bank_were(digits, tmp_path):
    """These are larger than those that are learnt, and squashed."""
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / f"{number:02}.png")
    for name, side in (("small", 8), ("large", 16)):
        api.pack(tmp_path, tmp_path.parent / f"{tmp_path.name}-{name}", resolution=side, crop="squash")
    small, large = (tmp_path.parent / f"{tmp_path.name}-{name}" for name in ("small", "large"))
    bank = tmp_path / "b.safetensors"
    api.instances(small, bank, embedding="offline", neighbors=2, pixels=large)
    api.train("dcgan", run=tmp_path / "run", data=small, kimg=0.012, overrides=words(bank))
    photos = read_photos([tmp_path / "07.png"], open_generator(str(tmp_path / "run"), CPU))
    expected = InstanceBank.open(bank).features[7].astype(np.float32)
    assert photos.features[0].numpy() == pytest.approx(expected, abs=1e-3)


def test_a_bank_that_is_another_now_is_not_drawn(digits, bank, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(bank.read_bytes())
    api.train("dcgan", run=tmp_path / "run", data=digits, kimg=0.012, overrides=words(mine))
    api.instances(digits, mine, embedding="offline", neighbors=4, centres=10)
    options = {"metrics": "fid", "embedding": "offline", "count": 60, "seeds": 1}
    found = api.evaluate(tmp_path / "run", figures=tmp_path / "figures", **options)
    assert found.provenance["instances"] == f"not drawn: {mine} holds another bank than the run has read"


def test_instances_of_other_images_need_no_training(run, patches, tmp_path):
    bank = tmp_path / "patches.safetensors"
    api.instances(patches, bank, embedding="offline", neighbors=4, centres=20)
    api.generate(run, bank=bank, seeds="0-3", out=tmp_path / "theirs")
    api.generate(run, seeds="0-3", out=tmp_path / "own")
    for file in (tmp_path / "own").iterdir():
        assert file.read_bytes() != (tmp_path / "theirs" / file.name).read_bytes()
    other = tmp_path / "other.safetensors"
    api.instances(patches, other, embedding="efficientnet", neighbors=4, centres=20)
    with pytest.raises(SpiderUsageError, match=r"its features are efficientnet.*the generator is told of offline"):
        api.generate(run, bank=other, out=tmp_path / "x")


def test_the_way_between_two_instances_has_one_input(run, tmp_path):
    generator = open_generator(str(run), CPU)
    request = InterpolateRequest(run, tmp_path / "way", space="instance", steps=3, seeds=[3, 4, 5, 6])
    found = interpolate(generator, request)
    assert found.blended() == "the instances (linear)"
    source = generator.source.at(0, [3]).expand(4, -1)
    corners = generator(source, generator.condition_at(0, [3, 4, 5, 6]))
    for name, image in zip(("r1c1", "r1c3", "r3c1", "r3c3"), to_uint8(corners), strict=True):
        written = np.asarray(Image.open(tmp_path / "way" / f"{name}.png")).astype(int)
        assert np.abs(written - image[0].numpy()).max() <= 1


@pytest.fixture
def grids(monkeypatch):
    """What grids are asked for."""
    asked = []

    def remember(*images, **options):
        asked.append(options)
        return sample_grid(*images, **options)

    for module in ("generate", "interpolate"):
        monkeypatch.setattr(f"spider.pictures.{module}.sample_grid", remember)
    return asked


def test_each_photo_has_a_row_of_its_own(run, digits, bank, tmp_path, grids):
    files = [photo(digits, number, tmp_path / f"{number}.png") for number in (3, 4)]
    api.generate(run, instances=files, seeds="0-2", grid=tmp_path / "grid.png")
    assert (grids[0]["columns"], grids[0]["rows"]) == (3, ["3", "4"])
    assert grids[0]["captions"] == ["seed 0", "seed 1", "seed 2"] * 2
    api.generate(run, seeds="0-2", grid=tmp_path / "grid.png", bank=bank)
    assert (grids[1]["columns"], grids[1]["rows"]) == (8, None)
    assert grids[1]["note"] == "Told of instances of digits."


def test_the_corners_between_instances_are_called_by_them(run, tmp_path, grids):
    for space, name in (("instance", "instance"), ("z", "seed")):
        api.interpolate(run, tmp_path / "way.png", space=space, steps=2, seeds=[3, 4, 5, 6])
        assert grids[-1]["captions"] == [f"{name} {number}" for number in (3, 4, 5, 6)]


def test_the_way_between_two_photos_has_their_images_at_its_ends(run, digits, tmp_path, grids):
    files = [photo(digits, number, tmp_path / f"{number}.png") for number in (3, 4, 5, 6)]
    generator = open_generator(str(run), CPU)
    found = api.interpolate(run, tmp_path / "way", instances=files, steps=2)
    assert (found.space, found.numbers, found.instances) == ("instance", [0, 1, 2, 3], ["3", "4", "5", "6"])
    told = replace(generator.condition_at(0, [0] * 4), features=read_photos(files, generator).features)
    corners = to_uint8(generator(generator.source.at(0, [0]).expand(4, -1), told))
    for name, image in zip(("r1c1", "r1c2", "r2c1", "r2c2"), corners, strict=True):
        written = np.asarray(Image.open(tmp_path / "way" / f"{name}.png")).astype(int)
        assert np.abs(written - image[0].numpy()).max() <= 1
    api.interpolate(run, tmp_path / "way.png", instances=files, steps=2)
    assert grids[-1]["captions"] == ["3", "4", "5", "6"]
    api.interpolate(run, tmp_path / "one.png", instances=files[:1], steps=2)  # vectors are blended, told of one
    assert grids[-1]["captions"] == ["seed 0", "seed 1", "seed 2", "seed 3"]
    assert api.interpolate(run, tmp_path / "loop.gif", instances=files[:2], steps=2).numbers == [0, 1]
    with pytest.raises(SpiderUsageError, match="--instance: 3 photos for 4 images; give one, or one for each"):
        api.interpolate(run, tmp_path / "x.png", instances=files[:3], seeds="0-3")


def test_the_way_between_instances_of_other_images(run, patches, tmp_path):
    bank = tmp_path / "patches.safetensors"
    api.instances(patches, bank, embedding="offline", neighbors=4, centres=20)
    for name, more in (("theirs", {"bank": bank}), ("own", {})):
        api.interpolate(run, tmp_path / name, space="instance", steps=2, **more)
    own, theirs = ((tmp_path / name / "r1c2.png").read_bytes() for name in ("own", "theirs"))
    assert own != theirs
    with pytest.raises(SpiderUsageError, match="--instance: not with --bank"):
        api.interpolate(run, tmp_path / "x.png", bank=bank, instances=["a.png"])


def test_a_generator_without_instances_says_so(digits, tmp_path):
    api.train("dcgan", run=tmp_path / "plain", data=digits, kimg=0.016, overrides=["batch=8", "generator.width=0.05"])
    file = photo(digits, 1, tmp_path / "one.png")
    for more in ({"instances": [file]}, {"bank": "x.safetensors"}):
        with pytest.raises(SpiderUsageError, match=r"--(instance|bank): .*told of none|no such file"):
            api.generate(tmp_path / "plain", out=tmp_path / "out", **more)
    with pytest.raises(SpiderUsageError, match="--space instance: the generator has none; the generator is fed z"):
        api.interpolate(tmp_path / "plain", tmp_path / "x.gif", space="instance")


def test_files_that_are_not_there_or_hold_other_things_are_refused_by_what_named_them(run, digits, patches, tmp_path):
    (tmp_path / "other").write_text("words")
    for file, said in (("nothing", "no such file"), ("other", "not an image")):
        with pytest.raises(SpiderError, match=rf"^--instance: .*{file}.*{said}"):
            api.generate(run, instances=[tmp_path / file], out=tmp_path / "out")
    bank = tmp_path / "patches.safetensors"
    api.instances(patches, bank, embedding="offline", neighbors=4, centres=20)
    for file, said in (("nothing", "no such file"), ("other", "no bank"), (bank.name, "is a bank of patches")):
        with pytest.raises(SpiderError, match=rf"^condition\.bank: .*{file}.*{said}"):
            trainer_for(digits, tmp_path / file)


def batches(values, size):
    return [tuple(values[first : first + size]) for first in range(0, len(values), size)]


@pytest.mark.parametrize("of", ["own", "other"])
def test_figures_show_instances_what_is_near_them_and_samples(of, run, digits, bank, tmp_path, monkeypatch):
    """Of the bank that the run has read, or of another one, whose images are the reference."""
    shown = []

    def remember(images, **options):
        shown.append((images, options))
        return sample_grid(images, **options)

    monkeypatch.setattr("spider.judge.instances.page.sample_grid", remember)
    file, more, place = tmp_path / "figures" / "instances.png", {}, digits
    if of == "other":
        bank, place = tmp_path / "grey.safetensors", tmp_path / "grey"
        pack("builtin:patches", place, resolution=8, channels=1, subset=100, workers=1, progress=False)
        api.instances(place, bank, embedding="offline", neighbors=4, centres=20)
        more = {"bank": bank, "reference": place}
    found = api.evaluate(run, metrics="fid", embedding="offline", count=60, seeds=1, figures=file.parent, **more)
    assert found.provenance["instances"] == str(file)
    assert str(file) in found.table()
    with Image.open(file) as picture:
        assert picture.width > 11 * 64
    [(images, options)] = shown
    opened, dataset, generator = InstanceBank.open(bank), ShardDataset(place), open_generator(str(run), CPU)
    rows = [*zip(to_uint8(images).split(12), batches(options["captions"], 12), strict=True)]
    assert (options["columns"], len(rows)) == (12, 8)
    assert opened.about.name in options["note"]
    numbers = [int(captions[0].removeprefix("image ")) for _, captions in rows]
    assert len({*numbers} & {*opened.centres.tolist()}) == 8
    for number, (cells, captions) in zip(numbers, rows, strict=True):
        pixels, _ = dataset.read_batch([number, *opened.neighbors[number]])
        assert torch.equal(cells[:5], torch.from_numpy(pixels))
        told = Condition(features=torch.from_numpy(opened.features[[number] * 6]).float())
        assert torch.equal(cells[6:], to_uint8(generator.images(0, range(6), told)))
        assert captions[1:] == (*(f"near {n}" for n in range(1, 5)), "", *(f"seed {n}" for n in range(6)))


def test_instances_of_images_that_are_not_at_hand_are_not_drawn(run, bank, patches, tmp_path):
    own, bank = bank, tmp_path / "patches.safetensors"
    api.instances(patches, bank, embedding="offline", neighbors=4, centres=20)
    options = {"metrics": "fid", "embedding": "offline", "count": 60, "seeds": 1, "figures": tmp_path / "figures"}
    found = api.evaluate(run, bank=bank, **options)
    assert found.provenance["instances"] == "not drawn: the reference is not patches, whose bank --bank is"
    found = api.evaluate(run, bank=bank, reference=patches, **options)
    assert found.provenance["instances"] == f"not drawn: {patches} and the samples are of different sizes"
    assert found.provenance["memorisation_page"] is None  # its images are no held-out ones of the training's
    assert "no memorisation page: samples are told of patches" in found.table()
    found = api.evaluate(run, bank=own, reference=patches, **options)
    assert found.provenance["memorisation_page"] is not None
    assert not (tmp_path / "figures" / "instances.png").exists()


def test_a_run_is_measured_by_instances_of_other_images(run, patches, digits, tmp_path):
    """For figure 4 of the paper, and for transfer."""
    options = {"metrics": "fid", "embedding": "offline", "count": 60, "seeds": 1, "data": digits}
    values = [api.evaluate(run, **options).results[0].value]
    for centres in (5, 30):
        bank = tmp_path / f"{centres}.safetensors"
        api.instances(digits, bank, embedding="offline", neighbors=4, centres=centres)
        found = api.evaluate(run, bank=bank, **options)
        values.append(found.results[0].value)
        assert found.provenance["bank"]["instances"] == centres
        assert f"told of {centres} (60 images)" in found.table()
    assert values[2] == pytest.approx(values[0], rel=1e-6)  # the run keeps 30, too
    assert values[1] != values[0]
    with pytest.raises(SpiderUsageError, match=r"--bank .* is a set of images"):
        api.evaluate(patches, reference=digits, bank=bank, embedding="offline")


@pytest.fixture(scope="module")
def both(digits, bank, tmp_path_factory):
    """A run that is told an instance and a class."""
    run = tmp_path_factory.mktemp("runs") / "both"
    api.train("dcgan", run=run, data=digits, kimg=0.024, overrides=words(bank, "condition.classes=true"))
    return run


SMALL = {"metrics": "fid", "embedding": "offline", "count": 60, "seeds": 1}


def test_a_bank_with_labels_says_the_classes_too(both, digits, tmp_path):
    bank = tmp_path / "few.safetensors"
    api.instances(digits, bank, embedding="offline", neighbors=4, centres=20)
    found = api.evaluate(both, bank=bank, **SMALL)
    assert found.provenance["bank"]["instances"] == 20
    opened, labels = InstanceBank.open(bank), ShardDataset(digits).labels()
    told = told_by_bank(open_generator(str(both), CPU), bank).conditions.at(0, range(40), CPU)
    for instances, label in zip(instances_of(told.features, opened.features), told.labels, strict=True):
        assert int(label) in {int(each) for i in instances for each in labels[opened.neighbors[i]]}
    assert len(api.generate(both, bank=bank, seeds="0-3", out=tmp_path / "out").files) == 4


def test_a_bank_of_other_classes_needs_a_class(both, digits, patches, tmp_path):
    bank = tmp_path / "patches.safetensors"
    api.instances(patches, bank, embedding="offline", neighbors=4, centres=20)
    with pytest.raises(SpiderUsageError, match=r"--bank: .* none of its classes: add --class NAME"):
        api.evaluate(both, bank=bank, **SMALL)
    values = [api.evaluate(both, bank=bank, classes=[name], **SMALL).results[0].value for name in ("3", "4")]
    assert values[0] != values[1]
    generator = only_of(told_by_bank(open_generator(str(both), CPU), bank, ["3", "4"]), ["3", "4"])
    told = generator.conditions.at(0, range(200), CPU)
    assert 60 < int((told.labels == 3).sum()) < 140
    assert sorted(set(told.labels.tolist())) == [3, 4]
    opened = InstanceBank.open(bank)
    assert all(instances_of(told.features, opened.features[opened.centres]))
    for other in ("5", "6"):
        assert only_of(generator, [other]).digest != generator.digest


def test_a_run_is_judged_by_some_classes(both, run, digits):
    """Samples of these, each of an instance near an image of it, against the training images of these."""
    found = api.evaluate(both, classes=["2", "7"], **SMALL)
    labels = ShardDataset(digits).labels()
    assert found.results[0].provenance["reference"]["count"] == int(np.isin(labels, [2, 7]).sum())
    conditions = open_generator(str(both), CPU).conditions
    told, all_told = conditions.among(["2", "7"]).at(0, range(2000), CPU), conditions.labels
    of_two = int((all_told == 2).sum()) / int(((all_told == 2) | (all_told == 7)).sum())
    assert float((told.labels == 2).float().mean()) == pytest.approx(of_two, abs=0.05)
    rows = torch.cdist(told.features[:50], conditions.features.float()).argmin(1)
    assert (all_told[rows] == told.labels[:50, None]).any(1).all()
    with pytest.raises(SpiderUsageError, match="--class: class 2: the generator was trained without classes"):
        api.evaluate(run, classes=["2"], **SMALL)


def test_a_run_of_instances_and_classes_may_be_judged_by_some_as_it_learns(digits, bank, tmp_path):
    asked = [
        "condition.classes=true",
        "evaluate.classes=[2]",
        "evaluate.embedding=offline",
        "evaluate.every_kimg=0.024",
    ]
    more = words(bank, *asked, "evaluate.count=60")
    api.train("dcgan", run=tmp_path / "run", data=digits, kimg=0.024, overrides=more)
    assert list((tmp_path / "run" / "evaluations").glob("*.json"))
    with pytest.raises(SpiderUsageError, match="there are no classes to be judged by"):
        make_config({"data": {"path": str(digits)}}, words(bank, "evaluate.classes=[2]"))


def test_a_photo_is_made_of_each_class(both, digits, tmp_path):
    file = photo(digits, 11, tmp_path / "eleven.png")
    written = api.generate(both, instances=[file], classes=["2", "7"], seeds="0,5", out=tmp_path / "out")
    assert written.files == [f"class000{label}-eleven-seed00000{seed}.png" for label in (2, 7) for seed in (0, 5)]
    generator = open_generator(str(both), CPU)
    features = read_photos([file], generator).features.expand(2, -1)
    for label, files in ((2, written.files[:2]), (7, written.files[2:])):
        told = replace(generator.told(0, [0, 5], label), features=features)
        for name, image in zip(files, to_uint8(generator.images(0, [0, 5], told)), strict=True):
            assert (np.asarray(Image.open(tmp_path / "out" / name)) == image[0].numpy()).all()
    with pytest.raises(SpiderUsageError, match=r"--instance: .* none of its classes: add --class NAME"):
        api.generate(both, instances=[file], out=tmp_path / "x")
