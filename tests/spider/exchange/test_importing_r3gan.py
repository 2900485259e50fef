"""A pickle of R3GAN, of plain modules by the names of their classes: what it becomes, and what is refused."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from PIL import Image
from torch import nn

from cluster.world import World
from spider import api
from spider.gan.networks.r3gan import R3ganDiscriminator
from spider.gan.outputs import Condition, ConditionShape
from spider.runs.directory import RunDirectory
from spider.runs.generator import open_generator
from spider.runs.request import TrainRequest
from spider.runs.stored import stored_tensors
from spider.train.trainer import Trainer
from tests.spider.exchange.official_r3gan import block, conv, dumped, made, network, networks
from tests.spider.exchange.watching import Calls, watched
from tests.vectors import assert_near, recorded

CPU = torch.device("cpu")
VECTORS = recorded("r3gan_32_class5")
LABELS = Condition(VECTORS["c"].argmax(1))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What a snapshot becomes, and what import says of it."""
    folder = tmp_path_factory.mktemp("r3gan")
    (folder / "theirs.pkl").write_bytes(dumped(networks()))
    return folder / "theirs", api.import_pickle(folder / "theirs.pkl", folder / "theirs")


def test_an_import_makes_the_recorded_images(imported):
    frozen = open_generator(str(imported[0]), CPU)
    assert_near(frozen(VECTORS["z"], LABELS), VECTORS["img"], 1e-5)


def test_an_import_gives_the_recorded_logits(imported):
    config = RunDirectory(imported[0]).config()
    discriminator = R3ganDiscriminator(config.discriminator, (3, 32, 32), ConditionShape(5))
    discriminator.load_state_dict(stored_tensors(str(imported[0]))["discriminator"])
    assert_near(discriminator(VECTORS["real"], LABELS).logits[:, 0], VECTORS["logits_real"], 1e-5)


def test_settings_come_from_the_layers_and_no_optimizer_is_noted(imported):
    config, noted = RunDirectory(imported[0]).config(), RunDirectory(imported[0]).imported_file.read_text()
    for settings in (config.generator, config.discriminator):
        assert (settings.channels, settings.groups) == ((32, 24, 16, 16), (4, 4, 4, 4))
        assert (settings.blocks, settings.embedding_dim) == (2, 8)
    assert (config.source.dim, config.condition.kind, imported[1].classes) == (24, "class", 5)
    assert imported[1].networks.keys() == {"G", "G_ema", "D"}
    assert "float32" in imported[1].remarks[1]
    assert '"class": "training.networks.Generator"' in noted
    assert '"cur_nimg": 1000' in noted
    assert "opt_state" not in noted


def test_a_network_without_classes(tmp_path):
    generator, discriminator = network("G"), network("D")
    vectors = generator.Model.EmbeddingLayer.weight.T
    del generator.Model.EmbeddingLayer, discriminator.Model.EmbeddingLayer
    generator.z_dim, generator.c_dim = 32, 0  # the class goes in as part of the noise
    dense = discriminator.Model.MainLayers[-1].Layers[-1].LinearLayer
    dense.weight = nn.Parameter(dense.weight[:1].clone(), False)
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": generator, "D": discriminator}))
    api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    inputs = torch.cat([VECTORS["z"], vectors[LABELS.labels]], 1)
    assert_near(open_generator(str(tmp_path / "out"), CPU)(inputs, Condition()), VECTORS["img"], 1e-5)


def test_fine_tuning_begins_with_the_images_of_the_import(imported, tmp_path):
    drawn = torch.randint(256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for number, pixels in enumerate(drawn.numpy()):
        (tmp_path / "pictures" / f"class{number % 5}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"class{number % 5}" / f"{number}.png")
    api.pack(tmp_path / "pictures", tmp_path / "packed", workers=1)
    quick = ("batch=4", "log.samples=4", "log.tensorboard=false", "condition.kind=class")
    asked = TrainRequest(
        "r3gan-32", tmp_path / "run", overrides=quick, data=tmp_path / "packed", init=imported[0], kimg=0.004
    )
    trainer = Trainer(asked.checked(), World.single(CPU))
    fits = trainer.begin()
    assert fits.keys() == {"generator", "generator_ema", "discriminator"}
    assert all(fit.complete for fit in fits.values())
    theirs = open_generator(str(imported[0]), CPU)
    assert torch.equal(trainer.frozen()(VECTORS["z"], LABELS), theirs(VECTORS["z"], LABELS))
    trainer.iterate()
    trainer.close()
    assert not torch.equal(trainer.frozen()(VECTORS["z"], LABELS), theirs(VECTORS["z"], LABELS))


def test_no_module_of_a_known_name_is_imported(tmp_path, monkeypatch):
    for name in ("R3GAN", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n")
        (tmp_path / name / "Networks.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a.pkl").write_bytes(dumped({"G_ema": network("G")}))
    with watched() as ran:
        api.import_pickle(tmp_path / "a.pkl", tmp_path / "out")
    assert "pickle.find_class" not in ran
    assert not (tmp_path / "canary").exists()
    assert not {"R3GAN", "training"} & sys.modules.keys()


HOSTILE = {
    "a call among the attributes": lambda g: setattr(g, "more", Calls(os.system, "touch canary")),
    "a call among the parts": lambda g: g.Model._modules.update(more=Calls(eval, "1")),
    "a call for a weight": lambda g: g.Model._parameters.update(more=Calls(print, "1")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_nothing_runs(attempt, name):
    generator = network("G")
    HOSTILE[name](generator)
    assert "which is not known here, and nothing of it runs" in attempt(dumped({"G_ema": generator}))
    assert "and of R3GAN" in attempt(dumped({"G_ema": network("G"), "G_opt_state": Calls(os.system, "touch canary")}))


def stage(generator, number=1):
    return generator.Model.MainLayers[number].Layers


def with_part(at, name, part):
    at._modules[name] = part


def without(at, name):
    del at._modules[name]


def expanded(generator):
    weights = stage(generator)[1].state_dict()
    for name, sides in {
        "LinearLayer1.Layer.weight": (2, 1), "LinearLayer2.Layer.weight": (2, 2), "LinearLayer3.Layer.weight": (1, 2),
        "NonLinearity1.Bias": (2,), "NonLinearity2.Bias": (2,),
    }.items():  # fmt: skip
        weights[name] = weights[name].repeat(*sides, *[1] * (weights[name].ndim - len(sides)))
    with_part(stage(generator), "1", block(weights))


def larger_kernels(generator):
    for each in (1, 2):
        inside = stage(generator)[each].LinearLayer2
        inside.Layer = conv(nn.functional.pad(inside.Layer.weight, (1, 1, 1, 1)), 4)


def other_order(generator):
    layers = generator.Model.MainLayers
    layers._modules = dict(reversed(layers._modules.items()))


def other_groups(generator):
    inside = stage(generator)[2].LinearLayer2
    inside.Layer = conv(inside.Layer.weight[:, :6].clone(), 8)


def one_block_less(generator):
    without(stage(generator), "2")


OTHERS = {
    "a class renamed": (
        lambda g: with_part(g.Model, "MainLayers", made("ResidualBlock2")), "names R3GAN.Networks.ResidualBlock2",
    ),
    "another class": (
        lambda g: with_part(stage(g), "1", made("GenerativeBasis")), "'R3GAN.Networks.GenerativeBasis' is not known",
    ),
    "the basis at two sides": (lambda g: with_part(stage(g), "0", stage(g, 0)[0]), "UpsampleLayer stands there"),
    "a block in the place of a change": (lambda g: with_part(stage(g), "0", stage(g)[1]), "UpsampleLayer stands"),
    "an end of another class": (
        lambda g: with_part(g.Model, "AggregationLayer", g.Model.AggregationLayer.Layer), "Convolution stands there",
    ),
    "another discriminator": (lambda g: with_part(g, "Model", network("D").Model), "R3GAN.Networks.Generator stands"),
    "a part too many": (lambda g: with_part(g.Model, "more", nn.Linear(1, 1)), "nothing stands there"),
    "a missing part": (lambda g: without(g.Model, "AggregationLayer"), "has no AggregationLayer"),
    "a missing filter": (lambda g: stage(g)[0].Resampler._buffers.clear(), "its filter is not R3GAN's, [1, 2, 1]"),
    "another filter": (lambda g: stage(g)[0].Resampler.Kernel.mul_(2), "its filter is not R3GAN's, [1, 2, 1]"),
    "another order": (other_order, "no list of modules"),
    "blocks at one side": (one_block_less, "has [2, 1, 2, 2] blocks from 4 px up"),
    "no blocks": (lambda g: [without(stage(g), name) for name in "12"], "has no blocks"),
    "another expansion": (expanded, "has 96 channels inside of 24"),
    "larger kernels": (larger_kernels, "has kernels of 5x5 px"),
    "other groups in a block": (other_groups, "its blocks have [4, 8] groups"),
    "other groups than the weight": (
        lambda g: [setattr(stage(g)[n].LinearLayer2.Layer, "groups", 8) for n in (1, 2)], "has shape [48, 12, 3, 3]",
    ),
    "another padding": (
        lambda g: setattr(stage(g)[1].LinearLayer2.Layer, "padding", (0, 0)), "padding is (0, 0); the public code's",
    ),
    "a bias": (lambda g: setattr(stage(g)[1].LinearLayer1.Layer, "bias", nn.Parameter(torch.ones(48))), "no weight of"),
    "a hook": (lambda g: g.Model._forward_hooks.update({0: "hook"}), "_forward_hooks would change what"),
    "another side": (lambda g: setattr(g, "img_resolution", 64), "make images of 32 px of 5 classes"),
    "other classes": (lambda g: setattr(g, "c_dim", 6), "make images of 32 px of 5 classes"),
    "other noise": (lambda g: setattr(g, "z_dim", 25), "dense.weight has shape [32, 32], not [32, 33]"),
    "noise without end": (lambda g: setattr(g, "z_dim", 10**30), "more than 64 bits"),
    "a weight of no sides": (
        lambda g: setattr(g.Model.EmbeddingLayer, "weight", nn.Parameter(torch.ones(()))), "2 sides are needed",
    ),
    "no finite number": (lambda g: stage(g, 0)[0].Basis.fill_(torch.nan), "no finite number"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_generators_that_are_not_r3gans_are_refused(attempt, name):
    change, said = OTHERS[name]
    generator = network("G")
    change(generator)
    assert said in attempt(dumped({"G_ema": generator}))


OTHER_DISCRIMINATORS = {
    "another stride at 4 px": (lambda layers: setattr(layers[-1].Basis, "stride", (2, 2)), "stride is (2, 2)"),
    "a dense basis": (lambda layers: setattr(layers[-1].Basis, "groups", 1), "groups is 1; the public code's is 32"),
    "the basis first": (
        lambda layers: setattr(layers, "_modules", dict(zip("012", reversed(layers), strict=True))),
        "DiscriminativeBasis stands there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_DISCRIMINATORS)
def test_discriminators_that_are_not_r3gans_are_refused(attempt, name):
    change, said = OTHER_DISCRIMINATORS[name]
    discriminator = network("D")
    change(discriminator.Model.MainLayers[-1].Layers)
    assert said in attempt(dumped({"G_ema": network("G"), "D": discriminator}))


def test_what_nobody_reads_is_named(attempt):
    assert "G_ema is a torch.nn.modules.container.Sequential, which is not read" in attempt(
        dumped({"G_ema": nn.Sequential(nn.GELU())})
    )


def test_any_damage_is_told_in_one_line(attempt):
    content = dumped({"G_ema": network("G")})
    for cut in range(0, len(content), len(content) // 7):
        attempt(content[:cut])
