"""A generator grows: a run begins as the stem that another run has learnt, which stays as it is, on any ranks."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files

import pytest
import torch

from cluster.world import World
from spider import api
from spider.config.load import load_config, make_config
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.auxiliary.config import GuidanceConfig
from spider.gan.init.config import RunInitConfig
from spider.gan.init.fit import Fit, fit_weights
from spider.gan.init.freeze import Expected
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.runs.compose import compose
from spider.runs.directory import RunDirectory
from spider.runs.generator import open_generator
from spider.runs.given import about_given, lines_of_fits, lines_of_given
from spider.runs.request import TrainRequest
from spider.runs.start import prepare
from spider.runs.stored import stored_tensors
from spider.settings.schedule import value_at
from spider.train.loop import train
from spider.train.trainer import Trainer
from tests.deit import deit_state
from tests.spider.train.laws import assert_resume_is_exact, tensors_of

NETWORKS = [
    "source.dim=8", "generator.kind=stylegan3", "generator.layers=4", "generator.margin=2", "generator.channel_base=32",
    "generator.w_dim=8", "generator.class_dim=6", "generator.w_avg_of=class", "generator.head_layers=[3]",
    "generator.w_avg_beta=0.5", "generator.magnitude_half_life_kimg=null",
]  # fmt: skip
BASE = [
    *NETWORKS, "batch=8", "compute.precision=fp64", "condition.kind=class", "objective.kind=hinge",
    "discriminator.width=0.02",
    "augment=[{kind: blur, sigma: {linear: [1, 0], until_kimg: 0.02}}]",
    "g_penalties.path_length_weight={steps: [[0, 0], [0.008, 0.5]]}", "g_penalties.interval_steps=2",
    "log.samples=2", "evaluate.every_kimg=null",
]  # fmt: skip
GROWN = ["generator.sides=[8,16]", "generator.stem=frozen", "init.players=[g_ema]"]


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Digits of 16 px."""
    out = tmp_path_factory.mktemp("larger") / "digits"
    api.pack("builtin:digits", out, resolution=16)
    return out


@pytest.fixture(scope="module")
def stem(digits, tmp_path_factory):
    """A run of 8 px."""
    run = tmp_path_factory.mktemp("stem") / "run"
    api.train("dcgan", run, data=digits, kimg=0.032, overrides=[*BASE, "penalties.r1_gamma=0"])
    return run


def trainer_for(data, world, stem, *more):
    begins = ["init.kind=run", f"init.run={stem}"]
    words = [*BASE, *GROWN, *begins, *more]
    trainer = Trainer(make_config({"data": {"path": str(data)}}, words), world)
    trainer.begin()
    return trainer


def trained(world, data, stem, accumulation=1, iterations=4):
    """On a rank: all tensors at first, and after some steps."""
    trainer = trainer_for(data, world, stem, f"accumulation={accumulation}")
    first = tensors_of(trainer)
    for _ in range(iterations):
        trainer.iterate()
    assert trainer.plan.guard.skipped == 0
    trainer.close()
    return first, tensors_of(trainer)


def of_stem(name):
    """Whether a tensor of a checkpoint is of what the stem brings, but for the mean of w, which moves."""
    player, _, tensor = name.partition(".")
    return player in ("generator", "generator_ema") and not tensor.startswith(("synthesis.heads.", "w_avg"))


def test_it_begins_as_the_stem_which_stays_as_it_is(larger, stem):
    first, last = trained(World.single(), larger, stem)
    held = {name for name in first if of_stem(name)}
    assert any("synthesis.layers.1." in name for name in held)
    theirs = stored_tensors(str(stem))["generator_ema"]
    for name in held:
        expected = theirs[name.partition(".")[2]].double()
        torch.testing.assert_close(first[name], expected, rtol=0, atol=0)
        assert torch.equal(first[name], last[name])
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert "generator.w_avg" in moved  # of the frozen mapping network
    trains = {name for name in first if name.startswith("generator.synthesis.heads.0.") and "magnitude" not in name}
    assert trains == {name for name in moved if name.startswith("generator.synthesis.")}
    trainer = trainer_for(larger, World.single(), stem)
    assert {f"generator.{name}" for name, _ in trainer.generator.trainable} == trains
    trainer.close()


def test_a_stage_is_the_same_anywhere(ranks, larger, stem):
    _, whole = trained(World.single(), larger, stem)
    for count in (2, 4):
        for _, tensors in ranks(count).run(trained, larger, stem):
            torch.testing.assert_close(tensors, whole, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(trained(World.single(), larger, stem, 2)[1], whole, rtol=1e-8, atol=1e-9)


def test_penalties_without_weight_make_no_step(larger, stem):
    """Until their schedule gives them one: no step of Adam on gradients of 0, which would shrink its moments."""
    seen = []
    trainer = trainer_for(larger, World.single(), stem, "g_penalties.path_length_weight={steps: [[0, 0], [0.02, 1]]}")
    (penalty,) = [method for name, method in trainer.plan.methods.items() if name.startswith("g_penalties")]
    for _ in range(6):
        trainer.iterate()
        seen.append(float(penalty.mean))
    trainer.close()
    assert [mean > 0 for mean in seen] == [False] * 4 + [True] * 2  # of 8 images each; due every second time


def test_resume_equals_uninterrupted(larger, stem):
    assert_resume_is_exact(*(trainer_for(larger, World.single(), stem) for _ in range(2)), before=2)


def test_a_stage_is_trained_from_a_run_and_goes_on_without_it(larger, stem, tmp_path):
    """As a chain of runs; the networks are those of the stem's run, but for what is named."""
    run, words = tmp_path / "grown", [word for word in BASE if not word.startswith("generator.")]
    gone = tmp_path / "stem"
    gone.symlink_to(stem)
    asked = {"data": larger, "overrides": [*words, *GROWN, "generator.head_layers=[3]", "penalties.r1_gamma=0"]}
    api.train("dcgan", run, init=f"{gone}@last", kimg=0.016, **asked)
    gone.unlink()
    api.train("dcgan", run, init=f"{gone}@last", kimg=0.024, **asked)
    config = RunDirectory(run).config()
    assert config.generator.sides == (8, 16)
    assert config.generator.class_dim == 6
    assert open_generator(str(run), torch.device("cpu")).image_shape == (1, 16, 16)


def test_a_stage_without_a_stem_is_refused(larger):
    with pytest.raises(SpiderUsageError, match=r"generator\.sides=\[8, 16\] grows from given weights: --init RUN"):
        make_config({"data": {"path": str(larger)}}, [*BASE, *GROWN])


def test_what_growth_leaves_out_and_adds_is_said_as_such(larger, stem):
    """Also where all weights must fit: nobody has the new head's."""
    words = [*BASE, *GROWN, "init.kind=run", f"init.run={stem}", "init.require=all"]
    trainer = Trainer(make_config({"data": {"path": str(larger)}}, words), World.single())
    fits = trainer.begin()
    trainer.close()
    source, sizes, *lines = lines_of_given(trainer.config, trainer.image_shape, fits)
    assert (source, sizes) == (f"init: {stem}: g_ema", "init: grows from 8x8 to 16x16 px")
    assert lines == [fits["generator"].line("generator and generator_ema")]
    assert [*fits] == ["generator", "generator_ema"]
    head = [name for name in trainer.ema.module.state_dict() if name.startswith("synthesis.heads.0.")]
    for network, fit in fits.items():
        taken, unused = len(fit.fitted), len(fit.unused)
        assert fit.line(network) == (
            f"init: {network}: takes {taken} tensors of the given generator_ema; its other {unused} are of layers that "
            f"growth leaves out; those of the new head, {len(head)}, begin at random"
        )
        assert {name.split(".")[2] for name in fit.unused} == {"2", "3", "4"}  # of the stem's layers


@pytest.mark.parametrize(
    ("words", "shape", "said"),
    [
        ([], (3, 16, 16), "grows from grey images of 8x8 px to colour images of 16x16 px"),
        (["generator.stem=trains"], (1, 16, 16), "grows from 8x8 to 16x16 px"),
        (["init.players=[d]", "generator.stem=trains"], (1, 16, 16), "made for grey images of 8x8 px, and"),
        (["generator.sides=[8,32]"], (1, 16, 16), "made for grey images of 8x8 px, and these are grey images of"),
        (["generator.sides=[]", "generator.stem=trains"], (1, 16, 16), "made for grey images of 8x8 px, and"),
    ],
)
def test_images_of_another_size_are_growth_where_the_generator_grows(larger, stem, words, shape, said):
    config = load_config("dcgan", [*BASE, *GROWN, "init.kind=run", f"init.run={stem}", f"data.path={larger}", *words])
    assert about_given(config, shape)[1].startswith(f"init: {said}")


def test_generators_that_fit_otherwise_have_a_line_each():
    one, other = (Fit("generator", {"a": [1]}, missing=missing) for missing in ({}, {"b": [1]}))
    assert len(lines_of_fits({"generator": one, "generator_ema": other, "discriminator": one})) == 3
    assert lines_of_fits({"generator": one, "generator_ema": one, "discriminator": one}) == [
        f"init: {network}: all 1 tensors are given" for network in ("generator and generator_ema", "discriminator")
    ]
    assert lines_of_fits({"discriminator": one}) == ["init: discriminator: all 1 tensors are given"]


def test_a_discriminator_that_cannot_judge_such_images_is_refused_early(larger, stem, tmp_path):
    words = ["generator.kind=dcgan", "discriminator.kind=projected", "discriminator.enlarge_to=null"]
    with pytest.raises(SpiderUsageError, match=r"kind=projected sees images .* found 16x16: pack .*, or set disc"):
        prepare(load_config("dcgan", [*words, f"data.path={larger}"]), RunDirectory(tmp_path / "none"))


def test_published_weights_that_are_not_there_are_missed_early(digits, tmp_path):
    with pytest.raises(SpiderError, match=r"^discriminator\.backbones\.0: weights deit_base: .*file: weights: FILE$"):
        TrainRequest("stylegan-xl/stem", tmp_path / "run", data=digits).checked()


def test_both_generators_begin_as_the_average(larger, stem):
    """Also where nobody names the players: else the average of a frozen stem would move to where it never was."""
    trainer = trainer_for(larger, World.single(), stem, "init.players=[g,g_ema]")
    found = tensors_of(trainer)
    trainer.close()
    for name in (name for name in found if of_stem(name) and name.startswith("generator.")):
        assert torch.equal(found[name], found[name.replace("generator.", "generator_ema.", 1)])


def test_a_stem_that_is_not_whole_is_refused(larger, stem):
    """It would never train."""
    with pytest.raises(
        SpiderUsageError,
        match=r"init: generator\.synthesis\.layers\.2\.\S+ (has shape .*: it does not fit|is not given), and would",
    ):
        trainer_for(larger, World.single(), stem, "generator.layers=5", "init.players=[g,g_ema]")


def test_of_what_is_not_given_it_is_not_said_that_it_does_not_fit():
    one = torch.zeros(1)
    config, frozen = RunInitConfig(run="x", players=("d",), freeze_d=1), Expected(frozen={"discriminator": ["b"]})
    for given, said in (({}, "is not given"), ({"b": torch.zeros(2)}, r"has shape .* given as \[2\]: it does not fit")):
        with pytest.raises(
            SpiderUsageError, match=rf"^init\.freeze_d=1: discriminator\.b {said}, and would never train$"
        ):
            fit_weights({"discriminator": {"a": one, "b": one}}, {"discriminator": {"a": one, **given}}, config, frozen)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generator.channel_base=64"], "generator.channel_base=64: the given stem has 32: leave the key out"),
        (["generator.channel_max=2"], "generator.channel_max=2: the given stem has 512: leave the key out"),
        (["generator.layers=5"], "generator.layers=5: the given stem has 4: leave the key out"),
        (["generator.margin=3"], "generator.margin=3: the given stem has 2: leave the key out"),
        (["generator.equivariance=rotation"], "generator.equivariance=rotation: the given stem has translation: leave"),
        (["generator.w_dim=9"], "generator.w_dim=9: the given stem has 8: leave the key out"),
        (["generator.mapping_layers=3"], "generator.mapping_layers=3: the given stem has 2: leave the key out"),
        (["generator.class_dim=null"], "generator.class_dim=null: the given stem has 6: leave the key out"),
        (["generator.w_avg_of=all"], "generator.w_avg_of=all: the given stem has class: leave the key out"),
        (["source.dim=9"], "source.dim=9: the given stem has 8: leave the key out"),
        (["source.dim=9", "generator.layers=5"],
         "generator.layers=5: the given stem has 4; source.dim=9: the given stem has 8: leave the keys out, "),
        (["condition.kind=none"], "condition.kind=none: the given stem has class: give the stem's"),
        (["generator.channel_max=1000"], None),
        (["generator.class_dim=null", "condition.kind=none"], "condition.kind=none: the given stem has class: give"),
    ],
)  # fmt: skip
def test_another_size_than_the_stems_is_refused_by_its_key(larger, stem, tmp_path, words, said):
    """Before networks are built. Numbers of channels that are the same in the stem may be others in the head."""
    text = [word for word in BASE if word.partition("=")[0] not in {each.partition("=")[0] for each in words}]
    asked = [*text, *GROWN, "init.kind=run", f"init.run={stem}", f"data.path={larger}", *words]
    config = load_config("dcgan", asked)
    if said is None:
        prepare(config, RunDirectory(tmp_path / "none"))
        return
    with pytest.raises(SpiderUsageError) as refused:
        prepare(config, RunDirectory(tmp_path / "none"))
    assert str(refused.value).replace(str(stem), "RUN").startswith(said)


def test_no_stem_of_a_kind_that_cannot_grow_is_asked_for(larger, trained, tmp_path):
    words = [*BASE, *GROWN, "init.kind=run", f"init.run={trained}", f"data.path={larger}"]
    with pytest.raises(
        SpiderUsageError, match=r"^generator\.kind=stylegan3: .* has dcgan; .*: begin with a stem of this kind$"
    ):
        prepare(load_config("dcgan", words), RunDirectory(tmp_path / "none"))


def test_the_heads_that_a_stem_has_grown_are_of_its_sizes():
    grown = Stylegan3GeneratorConfig(layers=4, sides=(8, 16), head_layers=(3,), head_equivariance=("rotation",))
    first = Stylegan3GeneratorConfig(layers=4)

    def unlike(stem, **settings):
        mine = Stylegan3GeneratorConfig(layers=4, **settings)
        return [key for key, _, _ in mine.unlike_stem(stem, classes=False)]

    heads = {"head_layers": (3, 4), "head_equivariance": ("rotation", "translation")}
    assert unlike(grown, sides=(8, 16, 32), **heads) == []
    assert unlike(grown, sides=(8, 16, 32), head_layers=(4, 4)) == ["head_layers", "head_equivariance"]
    assert unlike(grown, sides=(8, 16), head_layers=(5,)) == []  # whose last head learns anew
    assert unlike(grown, sides=(8, 32), **heads | {"head_layers": (3,), "head_equivariance": ()}) == ["sides"]
    assert unlike(first, sides=(8, 16), head_layers=(5,)) == []
    # A head that is narrower by the same stem
    assert unlike(first, sides=(8, 16), channel_base=2 * 512 * 4) == []
    assert unlike(first, sides=(8, 16), channel_base=512) == ["channel_base"]
    assert unlike(Stylegan2GeneratorConfig(), sides=(8, 16)) == ["kind"]


def test_a_stem_of_another_side_is_refused(larger, stem, tmp_path):
    words = [*BASE, *GROWN, "init.kind=run", f"init.run={stem}", f"data.path={larger}"]
    for sides, said in (
        (
            "[5,16]",
            r"a side of 8 px, and generator\.sides=\[5, 16\] grows from 5 px: begin with .*generator\.sides=\[8, 16\]$",
        ),
        ("[5,6]", r"grows from 5 px: begin with a run of that side$"),
        (
            "[8,32]",
            r"32 px, and the images are 16x16: pack .* --resolution 32, or let generator\.sides end with 16$",
        ),
        ("[]", r"generator\.stem=frozen: nothing has grown"),
    ):
        config = load_config("dcgan", [*words, f"generator.sides={sides}"])
        with pytest.raises(SpiderUsageError, match=said):
            prepare(config, RunDirectory(tmp_path / "none"))


def test_a_stage_keeps_what_its_file_says_of_growth_and_of_its_discriminator(larger, stem, tmp_path):
    file = tmp_path / "stage.yaml"
    file.write_text(
        "generator: {kind: stylegan3, sides: [8, 16], head_layers: [4], stem: frozen}\n"
        "discriminator: {kind: dcgan, width: 0.03}\ninit: {kind: none}\n"
    )
    request = TrainRequest(file, tmp_path / "run", data=larger, init=f"{stem}@last", overrides=["init.players=[g_ema]"])
    config = compose(request)
    assert (config.generator.sides, config.generator.head_layers) == ((8, 16), (4,))
    assert config.generator.channel_base == 32
    assert config.discriminator.width == 0.03
    assert compose(replace(request, overrides=[])).discriminator.width == 0.02


@pytest.mark.parametrize("family", ["stylegan-xl", "stylesan-xl"])
@pytest.mark.parametrize("stage", ["stem", "head"])
def test_every_preset_trains(digits, larger, stem, tmp_path, family, stage):
    file = tmp_path / "tiny.pth"
    torch.save({"model": deit_state(grid=8)}, file)
    head = stage == "head"
    tiny = [
        f"data.path={larger if head else digits}", "condition.kind=class", *NETWORKS, "batch=2",
        f"discriminator.backbones=[{{kind: deit, weights: {file}}}, {{kind: efficientnet_lite0}}]",
        "discriminator.enlarge_to=128", "discriminator.width=0.015625", "discriminator.mixed_channels=4",
        *([*GROWN, "init.kind=run", f"init.run={stem}"] if head else []),
    ]  # fmt: skip
    trainer = Trainer(prepare(load_config(f"{family}/{stage}", tiny), RunDirectory(tmp_path / "none")), World.single())
    assert [phase.name for phase in trainer.plan.phases] == (
        ["g_main", "d_main"] if head else ["g_main", "g_reg", "d_main"]
    )
    trainer.begin()
    trainer.iterate()
    trainer.close()
    assert trainer.plan.guard.skipped == 0
    assert trainer.config.objective.slicing == (family == "stylesan-xl")
    if not head:
        (penalties,) = (phase for phase in trainer.plan.phases if phase.name == "g_reg")
        assert not any(weight(999_999) for weight in penalties.weights)
        times = [penalties.passes[0].run.gain * weight(1_000_000) for weight in penalties.weights]
        assert times == [2 / rows_there(f"{family}/stem", "g_penalties: # L: 2, of a sum over")]


def chained(world, digits, larger, weights, folder):
    """On a rank: the tensors of a stem and of what grew from it, StyleSAN-XL's, after a step of each player.

    Discriminators have slicing heads and look through two networks. In double precision, because gradients come
    through the kinks of these.
    """
    common = [
        "condition.kind=class", "batch=2", "g_penalties.batch_shrink=1", "compute.precision=fp64",
        f"discriminator.backbones=[{{kind: deit, weights: {weights}}}, {{kind: efficientnet_lite0}}]",
        "discriminator.enlarge_to=128", "discriminator.width=0.015625", "discriminator.mixed_channels=4",
        "log.samples=2", "log.tensorboard=false", "evaluate.every_kimg=null", *NETWORKS,
    ]  # fmt: skip
    stem, grown = folder / "stem", folder / "grown"
    begins = ["generator.sides=[8,16]", "init.players=[g_ema]", "init.kind=run", f"init.run={stem}"]
    found = []
    for preset, data, run, words in (("stem", digits, stem, []), ("head", larger, grown, begins)):
        directory = RunDirectory(run)
        asked = load_config(f"stylesan-xl/{preset}", [*common, *words, f"data.path={data}", "kimg=0.002"])
        assert train(prepare(asked, directory), directory, world, progress=False) == "finished"
        held = stored_tensors(str(run))
        found.append({f"{group}.{name}": each for group, tensors in held.items() for name, each in tensors.items()})
    return found


def test_a_chain_with_slicing_and_two_networks_is_the_same_on_two_ranks(ranks, digits, larger, tmp_path):
    weights = tmp_path / "tiny.pth"
    torch.save({"model": deit_state(grid=8)}, weights)
    alone = chained(World.single(), digits, larger, weights, tmp_path / "alone")
    for found in ranks(2).run(chained, digits, larger, weights, tmp_path / "ranks"):
        torch.testing.assert_close(found, alone, rtol=1e-8, atol=1e-9)
    for heads in ("heads", "others.0.heads"):  # which begin alike in both stages
        name = f"discriminator.{heads}.each.0.embedding.weight"
        assert not torch.equal(*(stage[name] for stage in alone))


def rows_there(preset, before):
    """Over how many logits the public code's loss is a sum, as the preset's comment says."""
    text = files("spider.presets").joinpath(f"{preset}.yaml").read_text()
    said = re.search(rf"{re.escape(before)} (\d+) networks and the (\d+) images of a micro-batch", text)
    return int(said[1]) * int(said[2])


@pytest.mark.parametrize("family", ["stylegan-xl", "stylesan-xl"])
def test_weights_are_of_means_where_the_public_code_has_sums(family):
    """Over the networks of the preset and 8 images. The path length's is multiplied by its interval here."""
    stem, head = (load_config(f"{family}/{stage}", ["data.path=any"]) for stage in ("stem", "head"))
    rows = rows_there(f"{family}/stem", "g_penalties: # L: 2, of a sum over")
    assert rows == 8 * len(stem.discriminator.backbones) == 8 * len(head.discriminator.backbones)
    penalties = stem.g_penalties
    assert value_at(penalties.path_length_weight, 1_000_000) * penalties.interval_steps == 2 / rows
    assert value_at(penalties.path_length_weight, 999_999) == 0
    assert not head.g_penalties.active
    rows = rows_there(f"{family}/head", "guidance; 8 in its paper is of a sum over")
    assert GuidanceConfig(classifier="any").weight == 8 / rows
