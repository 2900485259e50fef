"""`--init`: a training that begins with the networks of an import, or of a run, as they are."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.world import World
from shards.errors import ShardsUsageError
from spider import api
from spider.errors import SpiderUsageError
from spider.runs.generator import open_generator
from spider.runs.request import TrainRequest
from spider.train.trainer import Trainer
from tests.spider.exchange.official import dumped, networks, stylegan3

CPU = torch.device("cpu")
QUICK = ("batch=4", "log.samples=4", "log.tensorboard=false", "objective.kind=non_saturating", "log.every_kimg=0.004")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures of 32 px, and an import whose networks make such."""
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "pictures").mkdir()
    drawn = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
    api.pack(folder / "pictures", folder / "packed", workers=1)
    (folder / "theirs.pkl").write_bytes(dumped(networks()))
    api.import_pickle(folder / "theirs.pkl", folder / "theirs")
    return folder


def asked(place, run, *overrides, **more):
    more = {"data": place / "packed", "init": place / "theirs", "kimg": 0.004, **more}
    return TrainRequest("dcgan", place / run, overrides=(*QUICK, *overrides), **more)


def test_networks_come_from_the_import_and_training_from_the_preset(place):
    config = asked(place, "new", "generator.style_mixing=0.5", "init.freeze_d=1").compose()
    assert (config.generator.mapping_layers, config.generator.channel_max, config.source.dim) == (8, 24, 32)
    assert (config.generator.noise, config.generator.style_mixing, config.generator.w_avg_beta) == (
        "random",
        0.5,
        0.995,
    )
    assert config.discriminator.channel_max == 24
    assert (config.init.players, config.init.freeze_d) == (("g", "g_ema", "d"), 1)
    assert asked(place, "new", source="gamma").compose().source.kind == "gamma"


def test_a_training_begins_with_the_images_of_the_import(place):
    config = asked(place, "new", "generator.noise=const").checked()
    trainer = Trainer(config, World.single(CPU))
    fits = trainer.begin()
    assert fits.keys() == {"generator", "generator_ema", "discriminator"}
    assert all(fit.complete for fit in fits.values())
    theirs = open_generator(str(place / "theirs"), CPU)
    assert torch.equal(trainer.frozen().images(0, range(4)), theirs.images(0, range(4)))
    trainer.iterate()
    trainer.close()
    assert not torch.equal(trainer.frozen().images(0, range(4)), theirs.images(0, range(4)))


@pytest.mark.parametrize("preset", ["stylegan2-ada/low-shot", "stylegan2-ada/paper256"])
def test_with_noise_for_each_image_it_begins_with_the_networks_of_the_import(place, preset):
    """The presets have random noise: given the import's own, which is one for all images, they are its images."""
    request = TrainRequest(
        preset, place / "noisy", overrides=("batch=8",), data=place / "packed", init=place / "theirs"
    )
    config = request.checked()
    assert config.generator.noise == "random"
    trainer = Trainer(config, World.single(CPU))
    trainer.begin()
    ours, theirs = trainer.frozen(), open_generator(str(place / "theirs"), CPU)
    z, told = theirs.source.at(0, range(4)), theirs.told(0, range(4))
    noise = theirs.module.noise(told)
    assert not torch.equal(ours.images(0, range(4)), theirs.images(0, range(4)))
    ws = ours.latents(z, told)
    assert torch.equal(ws, theirs.latents(z, told))
    assert torch.equal(ours.module.from_ws(ws, noise.expand(4, -1)), theirs.module.from_ws(ws, noise))


def test_stylegan3_begins_with_the_images_of_the_import(place, tmp_path):
    (tmp_path / "three.pkl").write_bytes(dumped({"G_ema": stylegan3("stylegan3t_g32", rotation=False)}))
    api.import_pickle(tmp_path / "three.pkl", tmp_path / "three")
    overrides = ("batch=4", "discriminator.channel_base=64", "discriminator.mbstd_group=4")
    more = {"data": place / "packed", "init": tmp_path / "three"}
    trainer = Trainer(
        TrainRequest("stylegan3/t", place / "t", overrides=overrides, **more).checked(), World.single(CPU)
    )
    trainer.begin()
    theirs = open_generator(str(tmp_path / "three"), CPU)
    assert torch.equal(trainer.frozen().images(0, range(4)), theirs.images(0, range(4)))


def test_a_given_average_stays_and_augmentations_begin_as_with_the_public_resume(place):
    def composed(preset, *words):
        return TrainRequest(
            preset, place / "new", data=place / "packed", init=place / "theirs", overrides=words
        ).compose()

    config = composed("stylegan2-ada/auto")
    assert config.ema.rampup is None
    assert config.augment[0].control.rise_kimg == 100
    told = composed("stylegan2-ada/auto", "ema.rampup=0.1", "augment=[{kind: ada, control: {rise_kimg: 300}}]")
    assert (told.ema.rampup, told.augment[0].control.rise_kimg) == (0.1, 300)
    assert composed("stylegan2-ada/auto", "ema.half_life_kimg=3").ema.rampup is None
    assert composed("stylegan3/r").augment[0].sigma == 0
    assert composed("stylegan2-ada/auto", "init.players=[d]").ema.rampup == 0.05
    api.train(**asked(place, "told", "ema.rampup=0.1").values())
    kept = TrainRequest(None, place / "told", init=place / "theirs").checked()
    assert kept.ema.rampup == 0.1  # what the run was told when it began

    config = asked(place, "new", "ema.rampup=0.05", "ema.half_life_kimg=1").checked()
    distances = {}
    for rampup in (0.05, None):
        ema = config.ema.model_copy(update={"rampup": rampup})
        trainer = Trainer(config.model_copy(update={"ema": ema}), World.single(CPU))
        trainer.begin()
        before = [each.clone() for each in trainer.ema.module.parameters()]
        trainer.iterate()
        after = trainer.ema.module.parameters()
        distances[rampup] = sum((a - b).square().sum().item() for a, b in zip(before, after, strict=True))
        trainer.close()
    assert distances[None] < 1e-4 * distances[0.05]  # 4 of 1,000 images; with the ramp, all of the step


def test_pictures_that_differ_in_size_are_refused_with_the_side_of_the_import(place):
    mixed = place / "mixed"
    mixed.mkdir()
    for side in (40, 48):
        Image.new("RGB", (side, side)).save(mixed / f"{side}.png")
    with pytest.raises(ShardsUsageError, match=r"data\.path: .* OUT --resolution 32 \(images of .*theirs.* have that"):
        api.train(**asked(place, "new", data=mixed).values())


def test_without_noise_maps_all_else_fits(place):
    trainer = Trainer(asked(place, "new").checked(), World.single(CPU))
    for network, fit in trainer.begin().items():
        assert not {**fit.missing, **fit.misfits}, network
        assert all(name.endswith("noise_const") for name in fit.unused)
    trainer.close()


def test_the_same_command_resumes_when_the_import_is_gone(place):
    shutil.copytree(place / "theirs", place / "going")
    assert api.train(**asked(place, "run", init=place / "going").values()) == "finished"
    shutil.rmtree(place / "going")
    longer = asked(place, "run", init=place / "going", kimg=0.008)
    assert api.train(**longer.values()) == "finished"
    with pytest.raises(SpiderUsageError, match="no such"):
        asked(place, "other", init=place / "going").compose()


def test_a_run_without_a_discriminator_gives_its_generator(place):
    (place / "g.pkl").write_bytes(dumped({"G_ema": networks()["G_ema"]}))
    api.import_pickle(place / "g.pkl", place / "g")
    config = asked(place, "new", init=place / "g").compose()
    assert config.init.players == ("g_ema",)
    assert config.discriminator.kind == "dcgan"
