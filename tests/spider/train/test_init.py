"""Runs that begin with given weights: what fits is taken over bit for bit, what is frozen never moves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.world import World
from spider import api
from spider.config.load import make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.class_file import ClassesAbout, ClassFile
from spider.gan.init.config import WeightsInitConfig
from spider.gan.init.fit import Fit, fit_weights
from spider.runs.directory import RunDirectory, resolve
from spider.runs.generator import open_generator
from spider.train.trainer import Trainer
from tests.equal_runs import assert_equal_runs
from tests.spider.train.toys import TOYS

CPU = torch.device("cpu")
DCGAN = [
    "batch=8",
    "objective.kind=non_saturating",
    "log.samples=4",
    "generator.width=0.05",
    "discriminator.width=0.05",
]
R3GAN = ["batch=8", "log.samples=4", "generator.width=0.02", "discriminator.width=0.02", "generator.blocks=1",
         "discriminator.blocks=1", "log.tensorboard=false", "source.dim=16"]  # fmt: skip
STYLEGAN2 = ["batch=8", "log.samples=4", "log.tensorboard=false", "source.dim=8", "generator.channel_base=64",
             "discriminator.channel_base=64", "generator.w_dim=8", "discriminator.mbstd_group=4"]  # fmt: skip
WORDS = {"dcgan": DCGAN, "r3gan-32": R3GAN, "stylegan2-ada/auto": STYLEGAN2}


@pytest.fixture(scope="module")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind of network."""
    root = tmp_path_factory.mktemp("finished")
    for preset, words in WORDS.items():
        api.train(preset, root / preset, data=digits, kimg=0.024, overrides=[*words, "evaluate.every_kimg=null"])
    return {preset: root / preset for preset in WORDS}


def begin(run: Path, digits: Path, *words: str, world: World | None = None) -> Trainer:
    """A trainer of the run's configuration that has begun by `words`."""
    tree = RunDirectory(run).config().model_dump(mode="json") | {"seed": 7}
    config = make_config({**tree, "data": {"path": str(digits)}}, words)
    trainer = Trainer(config, world or World.single())
    trainer.fits = trainer.begin()
    return trainer


def tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(resolve(str(run)).path / f"{name}.safetensors")


@pytest.mark.parametrize("preset", WORDS)
def test_no_step_after_a_run_gives_its_images_and_its_networks(finished, digits, preset):
    trainer = begin(finished[preset], digits, "init.kind=run", f"init.run={finished[preset]}")
    assert trainer.frozen().digest == open_generator(str(finished[preset]), CPU).digest
    for name in ("generator", "generator_ema", "discriminator"):
        given, here = tensors(finished[preset], name), trainer.snapshot().tensors[name]
        assert all(torch.equal(given[key], here[key]) for key in given | here)
    assert trainer.images == 0
    assert not trainer.snapshot().tensors["g_optimizer"]
    assert all("are given" in line and ": all" in line for line in (fit.line("x") for fit in trainer.fits.values()))


def test_a_network_that_is_not_named_stays_at_random_and_g_begins_as_its_average(finished, digits):
    run = finished["dcgan"]
    here = begin(run, digits, "init.kind=run", f"init.run={run}", "init.players=[g_ema]").snapshot().tensors
    plain = begin(run, digits).snapshot().tensors
    average = tensors(run, "generator_ema")
    for name in ("generator", "generator_ema"):
        assert all(torch.equal(here[name][key], tensor) for key, tensor in average.items())
    assert all(torch.equal(here["discriminator"][key], tensor) for key, tensor in plain["discriminator"].items())


def test_an_auxiliarys_average_of_d_begins_as_d_does(digits, tmp_path):
    api.train("dcgan", tmp_path / "run", data=digits, kimg=0.016, overrides=[*TOYS, "batch=8", "log.samples=4"])
    trainer = begin(tmp_path / "run", digits, "init.kind=run", f"init.run={tmp_path / 'run'}")
    here, plain = trainer.snapshot().tensors, begin(tmp_path / "run", digits).snapshot().tensors
    given, average = tensors(tmp_path / "run", "discriminator"), here["discriminator.auxiliary0"]
    assert given.keys() == average.keys()
    assert all(torch.equal(given[key], tensor) for key, tensor in average.items())
    assert {trainer.plan.methods["auxiliary.0"].average} == {trainer.discriminator.parts["auxiliary0"]}
    for group in ("discriminator.auxiliary1", "objective", "g_penalties.0"):  # what is no copy is as of the seed
        assert all(torch.equal(tensor, plain[group][key]) for key, tensor in here[group].items())


@pytest.mark.parametrize(("preset", "layers"), [("dcgan", 1), ("dcgan", 2), ("r3gan-32", 2), ("stylegan2-ada/auto", 2)])
def test_frozen_layers_and_only_they_never_move(finished, digits, preset, layers):
    run = finished[preset]
    norm = ["discriminator.norm=batch"] if (preset, layers) == ("dcgan", 1) else []
    if norm:  # whose running statistics must stay as well
        run = run.parent / "normed"
        api.train(preset, run, data=digits, kimg=0.016, overrides=[*WORDS[preset], *norm])
    words = ("init.kind=run", f"init.run={run}", f"init.freeze_d={layers}", "penalties.r1_gamma=1")
    trainer = begin(run, digits, *words)
    listed = trainer.discriminator.module.layers_from_images()
    names = {id(module): name for name, module in trainer.discriminator.module.named_modules()}
    frozen = tuple(f"{names[id(module)]}." for layer in listed[:layers] for module in layer)
    for _ in range(3):
        trainer.iterate()
    given, here = tensors(run, "discriminator"), trainer.snapshot().tensors["discriminator"]
    assert {key for key in given if torch.equal(given[key], here[key])} == {
        key for key in given if key.startswith(frozen)
    }
    with pytest.raises(SpiderUsageError, match=r"init.freeze_d=99: of the discriminator's \d+ layers at most"):
        begin(run, digits, *words, "init.freeze_d=99")


def test_a_resumed_run_is_one_that_was_never_stopped_and_reads_the_weights_no_more(finished, digits, tmp_path):
    run = tmp_path / "given"
    shutil.copytree(finished["dcgan"], run)
    words = [*DCGAN, "init.kind=run", f"init.run={run}", "init.freeze_d=1", "log.every_kimg=0.008"]
    api.train("dcgan", tmp_path / "whole", data=digits, kimg=0.04, overrides=words)
    api.train("dcgan", tmp_path / "halves", data=digits, kimg=0.016, overrides=words)
    noted = json.loads((tmp_path / "halves" / "inputs.json").read_text())["init.run"]
    assert noted["path"] == f"{run}@0.024" == RunDirectory(tmp_path / "halves").config().model_dump()["init"]["run"]
    text = (tmp_path / "halves" / "init.json").read_text()
    assert not re.search(r"^[\s\d,]+$", text, re.MULTILINE)  # a shape is a line, and not one for each dimension
    report = json.loads(text)
    assert report["discriminator"]["fitted"].keys() == tensors(run, "discriminator").keys()
    with pytest.raises(SpiderUsageError, match=r"^init.run: the run has read .* holds something else"):
        api.train("dcgan", tmp_path / "halves", data=digits, kimg=0.04,
                  overrides=[*words, f"init.run={finished['r3gan-32']}"])  # fmt: skip
    shutil.rmtree(run)
    api.train("dcgan", tmp_path / "halves", data=digits, kimg=0.04, overrides=words)
    assert_equal_runs(tmp_path / "whole", tmp_path / "halves")


def test_other_sizes_are_left_at_random_and_reported(finished, patches, tmp_path):
    run = finished["dcgan"]
    words = ["init.kind=run", f"init.run={run}"]
    api.train("dcgan", tmp_path / "run", data=patches, kimg=0.008, overrides=[*DCGAN, *words])
    report = json.loads((tmp_path / "run" / "init.json").read_text())
    given, here = tensors(run, "discriminator"), tensors(tmp_path / "run", "discriminator")
    found = report["discriminator"]
    assert {*found["fitted"], *found["misfits"], *found["missing"]} == here.keys()
    assert {*found["fitted"], *found["misfits"], *found["unused"]} == given.keys()
    for name, shapes in found["misfits"].items():
        assert shapes == {"given": [*given[name].shape], "here": [*here[name].shape]}
    assert found["misfits"]
    assert found["fitted"]
    with pytest.raises(SpiderUsageError, match=r"^init.require=all: generator: not every tensor fits: .* has shape \["):
        begin(run, patches, *words, "init.require=all")
    with pytest.raises(SpiderUsageError, match=r"^init.freeze_d=1: discriminator\.layers\.0\.weight has shape \["):
        begin(run, patches, *words, "init.freeze_d=1")


def test_a_dry_run_says_what_would_be_taken_and_what_does_not_fit(finished, patches, tmp_path, capsys):
    """Of a run and of an export of it: a network for grey images in a training of colour images."""
    run = finished["dcgan"]
    found = api.dry_run("dcgan", tmp_path / "run", data=patches, overrides=DCGAN, init=run)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"init: {run}@0.024: g, g_ema, d"
    assert said[1].startswith("init: made for grey images of 8x8 px, and these are colour images of ")
    assert any(
        re.fullmatch(r"init: discriminator: layers\.0\.weight has shape \[.*\], here \[.*\]", line) for line in said
    )
    assert found.init["discriminator"]["misfits"]
    assert not (tmp_path / "run").exists()
    weights, *_ = api.export(run, tmp_path / "export")
    words = [*DCGAN, "generator.width=0.07"]
    with pytest.raises(SpiderUsageError, match="no tensor fits"):
        api.dry_run("dcgan", tmp_path / "run", data=patches, init=weights, overrides=[*words, "generator.norm=none"])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"init: {weights}: g, g_ema"
    assert re.search("of a network with .*generator.width=0.05", said[1])
    assert said[2].startswith("init: made for grey images of 8x8 px")


def test_weights_of_a_file_fit_as_those_of_a_run(finished, digits, tmp_path):
    run, file = finished["dcgan"], tmp_path / "weights.safetensors"
    average, critic = tensors(run, "generator_ema"), tensors(run, "discriminator")
    save_file(average, file)
    trainer = begin(run, digits, "init.kind=weights", f"init.file={file}")
    assert trainer.frozen().digest == open_generator(str(run), CPU).digest
    both = {f"generator_ema.{key}": t for key, t in average.items()} | {
        f"discriminator.{key}": t for key, t in critic.items()
    }
    save_file(both, tmp_path / "both.safetensors")
    words = ("init.kind=weights", f"init.file={tmp_path / 'both.safetensors'}")
    here = begin(run, digits, *words, "init.players=[g_ema, d]").snapshot().tensors
    assert all(torch.equal(here["discriminator"][key], tensor) for key, tensor in critic.items())
    for wrong, why in {
        "init.players=[d]": r"^init.players names d, and no discriminator is given",
        "init.players=[g, d]": r"^init.players=\['g', 'd'\]: .* holds one network",
    }.items():
        words = ("init.kind=weights", f"init.file={file}", wrong)
        with pytest.raises(SpiderUsageError, match=why if "g, d" in wrong else "init"):
            begin(run, digits, *words)
    average["decoder.0.weight"] = average[next(iter(average))] * float("nan")
    save_file(average, file)
    with pytest.raises(SpiderError, match=r"^init: generator.decoder.0.weight is not finite"):
        begin(run, digits, "init.kind=weights", f"init.file={file}")
    file.write_bytes(b"no tensors")
    with pytest.raises(SpiderError, match=r"^init.file: .*: no safetensors file"):
        begin(run, digits, "init.kind=weights", f"init.file={file}")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A file of ten classes."""
    rng = np.random.default_rng(0)
    about = ClassesAbout("x", "digits", [*"0123456789"], 10, (8, 8), "center", "efficientnet", "efficientnet", "y", "z")
    vectors, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((10, 320), (10, 1280), 10))
    ClassFile(about, vectors, weight, bias).write(tmp_path / "classes.safetensors")
    return tmp_path / "classes.safetensors"


TABLED = ["generator.kind=tests.spider.train.toys:Tabled", "discriminator.kind=tests.spider.train.toys:Tabled",
          "condition.kind=class", "batch=8", "log.samples=4", "log.tensorboard=false", "source.dim=5",
          "objective.kind=hinge"]  # fmt: skip


def test_a_file_of_classes_fills_every_table_and_trains_on(classes, digits, tmp_path):
    run, vectors = tmp_path / "run", torch.from_numpy(ClassFile.read(classes).vectors)
    words = [*TABLED, "g_optimizer.lr=1e-3", "d_optimizer.lr=1e-3"]
    api.train("dcgan", run, data=digits, init=classes, kimg=0.008, overrides=words)
    tables = [
        ("generator", "mapping.class_vectors"),
        ("generator_ema", "mapping.class_vectors"),
        *(("discriminator", f"heads.{i}.embedding") for i in "01"),
    ]
    for network, table in tables:
        moved = (tensors(run, network)[f"{table}.weight"] - vectors).abs().max()
        assert 0 < moved < 0.01
    report = json.loads((run / "init.json").read_text())
    assert {name: [*fit["fitted"]] for name, fit in report.items()} == {
        "generator": ["mapping.class_vectors.weight"],
        "generator_ema": ["mapping.class_vectors.weight"],
        "discriminator": ["heads.0.embedding.weight", "heads.1.embedding.weight"],
    }
    assert not any(fit["unused"] or fit["misfits"] for fit in report.values())
    classes.unlink()
    api.train("dcgan", run, data=digits, init=classes, kimg=0.016, overrides=words)  # the beginning alone reads it
    assert RunDirectory(run).config().init.players == ("g", "d")


def test_only_the_new_head_may_be_missing_of_what_grows():
    growth = ("heads.1.", "heads.0.")
    whole = {"fitted": {"a": [1]}, "missing": {"heads.1.0.x": [1]}, "unused": {"heads.0.5.x": [1]}}
    assert Fit("generator_ema", **whole, growth=growth).grown
    for other in ({"missing": {"heads.1.0.x": [1], "b": [1]}}, {"unused": {"b": [1]}}, {"misfits": {"b": ([1], [2])}}):
        fit = Fit("generator_ema", **{**whole, **other}, growth=growth)
        assert not fit.grown
        assert fit.line("generator").startswith("init: generator: 1 of ")


def test_a_name_for_many_tensors_is_reported_where_it_stands_for_none_and_a_name_in_full_wins():
    here = {"table": torch.zeros(2), "a.table": torch.zeros(2), "b.c.table": torch.zeros(2), "untable": torch.zeros(2)}
    given = {"*.table": torch.ones(2), "a.table": torch.full((2,), 2.0), "*.nowhere": torch.ones(3)}
    networks = {"generator": here, "generator_ema": here, "discriminator": {}}
    placed, fits = fit_weights(networks, {"generator": given}, WeightsInitConfig(file="x"))
    assert {name: int(tensor[0]) for name, tensor in placed["generator"].items()} == {
        "table": 1, "a.table": 2, "b.c.table": 1, "untable": 0,
    }  # fmt: skip
    assert [*fits["generator"].unused] == ["*.nowhere"]
    elsewhere = {**networks, "discriminator": {"b": torch.zeros(2)}}
    both = {"generator": given, "discriminator": {"*.table": torch.ones(2)}}
    assert not fit_weights(elsewhere, both, WeightsInitConfig(file="x"))[1]["discriminator"].fitted
    with pytest.raises(SpiderUsageError, match="discriminator: no tensor fits"):
        fit_weights(elsewhere, {"discriminator": both["discriminator"]}, WeightsInitConfig(file="x"))


def test_a_file_of_classes_is_refused_where_no_table_is_and_other_names_beside_networks_too(classes, digits, tmp_path):
    with pytest.raises(SpiderUsageError, match=r"^init.require=some: generator: no tensor fits: "):
        api.train("dcgan", tmp_path / "run", data=digits, init=classes, overrides=[*DCGAN, "condition.kind=class"])
    save_file({**load_file(classes), "classifier.scale": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(SpiderError, match=r"some names begin with a network's \(.*\), others do not"):
        api.train("dcgan", tmp_path / "run", data=digits, init=tmp_path / "more.safetensors", overrides=TABLED)
    with pytest.raises(SpiderUsageError, match=r"^init.file: .*gone.safetensors: no such file"):
        api.train("dcgan", tmp_path / "run", data=digits, init=tmp_path / "gone.safetensors", overrides=TABLED)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["init.kind=run"], "init.run: missing"),
        (["init.kind=run", "init.run=nowhere"], "init.run: .*nowhere: no such folder"),
        (["init.kind=weights", "init.file=nowhere"], "init.file: .*nowhere: no such file"),
        (["init.kind=weights", "init.file=x", "init.freeze_d=1"], "init.freeze_d=1 freezes given weights"),
        (["init.freeze_d=1"], "init.freeze_d=1 freezes given weights"),
        (["init.kind=run", "init.run=x", "init.players=[]"], "init.players"),
    ],
)
def test_refusals_name_the_key(digits, tmp_path, words, why):
    with pytest.raises(SpiderUsageError, match=why):
        api.train("dcgan", tmp_path / "run", data=digits, overrides=[*DCGAN, *words])
    assert not (tmp_path / "run").exists()


def test_from_goes_on_and_init_begins_anew(finished, digits, tmp_path):
    run = finished["dcgan"]
    with pytest.raises(SpiderUsageError, match=r"^init: --from .* goes on with that run"):
        api.train("dcgan", tmp_path / "run", data=digits, kimg=0.04, from_run=f"{run}",
                  overrides=[*DCGAN, "init.kind=run", f"init.run={run}"])  # fmt: skip


def test_a_branch_takes_over_no_state_of_another_kind(digits, tmp_path):
    """ADA and APA both have a p, of which nobody could tell whose it was. What remembers nothing may take any place."""

    def train(name, kind, kimg, before=None):
        words = [*DCGAN, f"augment=[{{kind: mirror}}, {{kind: {kind}}}]"]
        api.train("dcgan", tmp_path / name, data=digits, kimg=kimg, from_run=before, overrides=words)

    train("run", "ada", 0.016)
    with pytest.raises(SpiderError, match=r"^augment\.1\.kind=apa: .* augment\.1\.kind=ada remembers"):
        train("apa", "apa", 0.032, f"{tmp_path / 'run'}@last")
    train("diffaugment", "diffaugment", 0.032, f"{tmp_path / 'run'}@last")


def stepped(world, run, digits, words):
    """On a rank: the tensors before and after two iterations."""
    trainer = begin(run, digits, *words, world=world)
    before = {group: {k: t.clone() for k, t in found.items()} for group, found in trainer.snapshot().tensors.items()}
    for _ in range(2):
        trainer.iterate()
    return before, trainer.snapshot().tensors


@pytest.mark.parametrize("engine", ["engine.kind=ddp", "engine.kind=deepspeed engine.zero_stage=1"])
def test_two_ranks_begin_and_go_on_as_one(ranks, finished, digits, engine):
    run = finished["dcgan"]
    words = ["init.kind=run", f"init.run={run}", "init.freeze_d=2", "generator.norm=none", "g_optimizer.beta1=0"]
    begun, after = stepped(World.single(), run, digits, words)
    for begun_there, after_there in ranks(2).run(stepped, run, digits, [*words, *engine.split()]):
        for group in ("generator", "generator_ema", "discriminator"):
            for name, tensor in begun[group].items():
                assert torch.equal(begun_there[group][name], tensor)
                torch.testing.assert_close(after_there[group][name], after[group][name], rtol=1e-3, atol=1e-5)
        assert torch.equal(after_there["discriminator"]["layers.0.weight"], begun["discriminator"]["layers.0.weight"])


def test_classes_begin_with_what_a_run_without_them_has(finished, digits):
    run = finished["r3gan-32"]
    trainer = begin(run, digits, "init.kind=run", f"init.run={run}", "condition.kind=class")
    given, here = tensors(run, "discriminator"), trainer.snapshot().tensors["discriminator"]
    alike = {name for name in given if name in here and given[name].shape == here[name].shape}
    assert {name for name in alike if torch.equal(given[name], here[name])} == alike
    assert any(name.startswith("embedding") for name in here.keys() - alike)
    trainer.iterate()


def test_what_begins_at_random_is_named():
    some = Fit("generator", fitted={"a": [1]}, missing={"stem.dense.weight": [2]})
    said = "1 of 2 tensors are given; 1 not given; begins at random: stem.dense.weight (see init.json)"
    assert some.line("generator") == f"init: generator: {said}"
    more = Fit("generator", misfits={"a": ([1], [2])}, missing={name: [1] for name in "bcde"})
    assert more.line("generator").endswith("; begins at random: a, b, c and 2 more (see init.json)")
    assert Fit("generator", fitted={"a": [1]}, unused={"b": [1]}).line("generator").endswith("no b (see init.json)")
