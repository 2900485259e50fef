"""Classifier guidance: as recorded from the public code, the same on any ranks, by a classifier that stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from cluster.world import World
from shards.dataset import ShardDataset
from spider import api
from spider.backbones.deit import read_deit_classifier
from spider.backbones.normalisation import IMAGENET
from spider.backbones.torchvision_stages import read_torchvision_classifier
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.auxiliary import Seen
from spider.gan.auxiliary.config import GuidanceConfig
from spider.gan.auxiliary.guidance import Guidance
from spider.gan.class_file import ClassesAbout, ClassFile
from spider.gan.objectives.hinge import Hinge
from spider.gan.outputs import Condition, ConditionShape, DOut
from spider.gan.pixels import to_float
from spider.runs.directory import resolve
from spider.runs.inputs import with_absolute_names
from spider.settings.marks import named
from spider.train.trainer import Trainer
from tests.deit import deit_state
from tests.spider.train.laws import assert_resume_is_exact, tensors_of
from tests.vectors import assert_near, recorded

CPU = torch.device("cpu")
OF_IMAGENET = GuidanceConfig(classifier="imagenet")


def shown(images, labels):
    return Seen("fake", images, images, Condition(labels), DOut(torch.zeros(len(images), 1)), lambda *given: None)


def test_it_pays_as_recorded():
    """There a sum over 6 rows, of 3 images and 2 backbones, has 8 times the term beside it: means have 8/6 times."""
    vectors = recorded("guidance")
    guidance, scores = Guidance(OF_IMAGENET, ConditionShape(1000), CPU), vectors["cls_logits"].requires_grad_()
    guidance.classifier = lambda images: scores
    told = guidance.generator(shown(vectors["img"], vectors["cls_label"]), None)
    assert told.terms["class"].shape == (3,)
    assert_near(told.terms["class"].mean(), vectors["guidance_loss"])
    (slope,) = torch.autograd.grad(8 * told.terms["class"].mean(), scores)
    assert_near(slope, vectors["guidance_grad_cls_logits"])
    logits = torch.stack([vectors[f"D_logits_row{row}"] for row in range(6)]).view(3, 12)
    ours = Hinge().g_fake(logits).mean() + 8 / 6 * told.terms["class"].mean()
    assert_near(6 * ours, vectors["G_loss_with_guidance"])
    assert_near(IMAGENET.of_signed(vectors["img"]), vectors["classifier_input_before_224"])
    assert told.reports["accuracy"].tolist() == (scores.argmax(1) == vectors["cls_label"]).float().tolist()


def test_gradients_reach_the_images_alone():
    guidance = Guidance(OF_IMAGENET, ConditionShape(1000), CPU)
    images = (2 * torch.rand(2, 1, 20, 24, dtype=torch.float64) - 1).requires_grad_()
    guidance.generator(shown(images, torch.tensor([3, 999])), None).terms["class"].sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(p.grad is None and p.dtype == torch.float64 for p in guidance.classifier.parameters())
    assert guidance.parts() == guidance.tensors() == {}


@pytest.fixture(scope="module")
def few(digits, tmp_path_factory):
    """40 digits, and the file of their classes."""
    folder = tmp_path_factory.mktemp("guidance")
    api.pack(digits, folder / "few", subset=40)
    return folder / "few", api.classes(folder / "few", folder / "classes.safetensors").out


def test_it_knows_the_images_that_its_classifier_was_made_of(few):
    """Though they come to the network by another rule, which for 8 pixels makes a difference."""
    data, file = few
    dataset = ShardDataset(data)
    told = ConditionShape(10, names=tuple(dataset.class_names))
    images = to_float(torch.from_numpy(dataset.read_batch(range(40))[0]))
    guidance = Guidance(GuidanceConfig(classifier=file), told, CPU)
    with torch.no_grad():
        found = guidance.generator(shown(images, torch.from_numpy(dataset.labels())), None)
        others = guidance.generator(shown(images, torch.from_numpy(dataset.labels()).roll(1)), None)
    assert found.reports["accuracy"].mean() > 0.6
    assert found.terms["class"].mean() < others.terms["class"].mean()


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Files of a tiny DeiT, for 32 px, and of a network of torchvision, both of 10 classes."""
    folder = tmp_path_factory.mktemp("others")
    torch.save({"model": deit_state(classes=10)}, folder / "deit.pth")
    torch.save(get_model("mobilenet_v3_small", num_classes=10).state_dict(), folder / "mobilenet.pth")
    return {"deit": str(folder / "deit.pth"), "mobilenet_v3_small": str(folder / "mobilenet.pth")}


@pytest.mark.parametrize(("network", "side"), [("deit", 32), ("mobilenet_v3_small", 224)])
def test_other_networks_guide_by_their_own_rule_of_input(others, network, side):
    file = Path(others[network])
    config, images = GuidanceConfig(network=network, classifier=str(file)), 2 * torch.rand(2, 1, 8, 8) - 1
    read = read_deit_classifier(file) if network == "deit" else read_torchvision_classifier(network, file)[0]
    seen = IMAGENET(((images + 1) / 2).expand(-1, 3, -1, -1))
    with torch.no_grad():
        expected = read(torch.nn.functional.interpolate(seen, (side, side), mode="bilinear"))
    labels, guidance = torch.tensor([3, 9]), Guidance(config, ConditionShape(10), CPU)
    told = guidance.generator(shown(images.requires_grad_(), labels), None)
    torch.testing.assert_close(
        told.terms["class"], torch.nn.functional.cross_entropy(expected, labels, reduction="none")
    )
    told.terms["class"].sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    with pytest.raises(SpiderUsageError, match=rf"classifier=.*{file.name} knows 10 classes, and the images have 11"):
        Guidance(config, ConditionShape(11), CPU)


def test_a_deit_guides_a_training(few, others):
    data, _ = few
    words = [*BASE, f"auxiliary=[{{kind: guidance, network: deit, classifier: {others['deit']}}}]"]
    trainer = Trainer(make_config({"data": {"path": str(data)}}, words), World.single())
    trainer.iterate()
    trainer.close()
    assert trainer.plan.stats.means()["auxiliary.0/class"] > 0
    with pytest.raises(SpiderUsageError, match=r"network=resnet18 needs a file of its weights as classifier"):
        make_config(
            {"data": {"path": str(data)}},
            [*BASE, "auxiliary=[{kind: guidance, network: resnet18, classifier: imagenet}]"],
        )


def test_what_is_of_other_classes_or_weights_is_refused_by_name(few, digits, tmp_path):
    data, file = few
    at_hand, other = ClassFile.read(file), tmp_path / "other.safetensors"
    about = ClassesAbout(**{**vars(at_hand.about), "weights": "0" * 64})
    ClassFile(about, at_hand.vectors, at_hand.weight, at_hand.bias).write(other)
    for classifier, told, why in (
        (
            "imagenet",
            ConditionShape(10),
            "classifier=imagenet knows 1,000 classes, and the images have 10; spider ",
        ),
        (file, ConditionShape(11), "knows the 10 classes of few, and the images have 11; spider classes DATA"),
        (file, ConditionShape(10, names=tuple("abcdefghij")), "and the images have as many, by other names"),
        (str(other), ConditionShape(10), "was made with other weights of EfficientNet-Lite0 "),
        ("nowhere.safetensors", ConditionShape(10), "nowhere.safetensors: no such file; spider classes DATA --out"),
    ):
        with pytest.raises(SpiderUsageError, match=why):
            Guidance(GuidanceConfig(classifier=classifier), told, CPU)
    words = [*BASE, f"auxiliary=[{{kind: guidance, classifier: {file}}}]"]
    with pytest.raises(SpiderUsageError, match=r"kind=guidance needs classes that .* found condition\.kind=none"):
        make_config({"data": {"path": str(data)}}, [*words, "condition.kind=none"])


BASE = ["batch=4", "source.dim=8", "generator.width=0.05", "discriminator.width=0.05", "condition.kind=class"]


def trainer_for(data, file, world=None, *words):
    guided = f"auxiliary=[{{kind: guidance, classifier: {file}}}]"
    return Trainer(make_config({"data": {"path": str(data)}}, [*BASE, guided, *words]), world or World.single())


def trained(world, data, file, accumulation):
    words = ["compute.precision=fp64", "generator.conditioning=concat", "generator.norm=none"]
    words += ["selection.kind=fixed", "selection.k=1", f"accumulation={accumulation}"]
    trainer = trainer_for(data, file, world, *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spider.gan.auxiliary.classifier._SIDE", 48)  # in float64 a CPU is slow
        for _ in range(2):
            trainer.iterate()
    trainer.close()
    means = trainer.plan.stats.means()
    return tensors_of(trainer), {name: means[f"auxiliary.0/{name}"] for name in ("class", "accuracy")}


def test_it_is_the_same_on_two_ranks_in_two_micro_batches_of_the_full_batch(ranks, few):
    """Of which the selection takes one image."""
    whole, means = trained(World.single(), *few, 1)
    for tensors, found in ranks(2).run(trained, *few, 2):
        torch.testing.assert_close(tensors, whole, rtol=1e-9, atol=1e-9)
        assert found == pytest.approx(means, rel=1e-9)


def test_it_sees_what_is_not_augmented_and_moves_the_generator_by_its_weight(few):
    def first(*words):
        trainer = trainer_for(*few, None, *words)
        trainer.iterate()
        trainer.close()
        return trainer.plan.stats.means()["auxiliary.0/class"], tensors_of(trainer)

    term, plain = first()
    augmented, _ = first("augment=[{kind: diffaugment}, {kind: mirror}]", "objective.kind=hinge")
    assert augmented == term
    late, unmoved = first("auxiliary.0.weight={steps: [[0, 0], [1, 1]]}")
    assert late == term
    differ = {name.partition(".")[0] for name, tensor in plain.items() if not torch.equal(tensor, unmoved[name])}
    assert differ == {"generator", "generator_ema", "g_optimizer"}


def test_a_resume_is_exact_and_its_file_is_the_same_while_nothing_of_it_is_saved(few, tmp_path):
    data, file = few
    assert_resume_is_exact(trainer_for(data, file), trainer_for(data, file))
    mine, run = tmp_path / "mine.safetensors", tmp_path / "run"
    mine.write_bytes(Path(file).read_bytes())
    words = [*BASE, "log.samples=4", "log.tensorboard=false", f"auxiliary=[{{kind: guidance, classifier: {mine}}}]"]
    api.train("dcgan", run, data=data, kimg=0.008, overrides=words)
    assert {name.stem for name in resolve(str(run)).path.glob("*.safetensors")} >= {"generator", "discriminator"}
    assert not [name for name in resolve(str(run)).path.iterdir() if "auxiliary" in name.name]
    noted = json.loads((run / "inputs.json").read_text())["auxiliary.0.classifier"]
    assert noted["path"] == str(mine)
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= rows[-1]["auxiliary.0/accuracy"] <= 1
    moved = mine.rename(tmp_path / "moved.safetensors")
    with pytest.raises(SpiderUsageError, match=r"^auxiliary\.0\.classifier: .*mine\.safetensors: no such file"):
        api.train(None, run, kimg=0.016)
    api.train(None, run, kimg=0.016, overrides=[f"auxiliary.0.classifier={moved}"])
    at_hand = ClassFile.read(moved)
    ClassFile(at_hand.about, at_hand.vectors, at_hand.weight, at_hand.bias + np.float32(1)).write(moved)
    with pytest.raises(SpiderUsageError, match=r"^auxiliary\.0\.classifier: the run has read .* holds something else"):
        api.train(None, run, kimg=0.024)


def test_a_word_is_no_place(few):
    """It is not looked for, and holds in any folder."""
    words = [*BASE, "auxiliary=[{kind: guidance, classifier: imagenet}]"]
    config = make_config({"data": {"path": str(few[0])}}, words)
    assert with_absolute_names(config).auxiliary[0].classifier == "imagenet"
    assert "auxiliary.0.classifier" not in {each.key for each in named(config)}
    config = make_config({"data": {"path": str(few[0])}}, [*words, "auxiliary.0.classifier=./imagenet"])
    assert with_absolute_names(config).auxiliary[0].classifier == str(Path("imagenet").absolute())
