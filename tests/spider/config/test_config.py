"""Configuration: what is refused, by which name; what a resume may change; and that none of it needs torch."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from spider.config.explain import all_keys, choice_of, explain
from spider.config.load import differences, load_config, make_config, parse_yaml, preset_names, preset_text, to_yaml
from spider.config.schema import Config
from spider.errors import SpiderUsageError
from spider.memory import training_needs_less


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_says_what_it_is(name):
    preset = parse_yaml(preset_text(name), name)
    needed = {
        "images": "source.path=somewhere",
        "generator": "source.run=somewhere",
        "instance": "condition.bank=there",
    }
    kinds = [preset[axis]["kind"] for axis in ("source", "condition") if axis in preset]
    load_config(name, [needed[kind] for kind in kinds if kind in needed])
    assert preset_text(name).startswith("# ")


@pytest.mark.parametrize("axis", ["generator", "discriminator"])
def test_every_network_says_which_of_its_keys_make_it_smaller(axis):
    for kind in (key.kind for key in explain(f"{axis}.kind")):
        found = choice_of(axis, kind)
        assert found.shrunk_by
        assert {*found.shrunk_by} <= {*found.model_fields}


def test_what_is_short_of_memory_hears_of_the_keys_of_its_own_networks():
    stem, head = ({"kind": "stylegan3", "sides": sides, "stem": stem} for sides, stem in
                  (([16], "trains"), ([16, 32], "frozen")))  # fmt: skip
    config = make_config({"generator": stem, "discriminator": {"kind": "projected"}})
    keys = "generator.channel_base, generator.channel_max, generator.layers, discriminator.width, "
    assert keys in training_needs_less(config.networks_shrunk_by)
    config = make_config({"generator": head, "init": {"kind": "run", "run": "theirs"}})
    assert config.networks_shrunk_by == ["generator.head_layers", "discriminator.width"]


def test_yaml_of_a_config_reads_back_equal():
    config = make_config(
        {}, ["source.kind=images", "source.path=x", "selection.kind=adaptive", "evaluate.every_kimg=5"]
    )
    assert make_config(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["source.path=x"], "source.path goes with source.kind=images"),
        (
            ["generator.norm=none", "generator.kind=r3gan", "generator.layout=auto"],
            "generator.layout goes with generator.kind=dcgan",
        ),
        (
            ["generator.kind=stylegan2", "generator.width=0.5"],
            "dcgan or r3gan; generator.kind=stylegan2 is made smaller by generator.channel_base, generator.channel_max",
        ),
        (["penalties.r1_gama=1"], "penalties.r1_gama=1: no such key; did you mean penalties.r1_gamma"),
        (["batch=0"], "batch=0: must be >= 1"),
        (
            ["discriminator.kind=projected", "discriminator.width=16"],
            "discriminator.width=16: must be <= 8: a factor of the published width, not a number of channels",
        ),
        (["source.kind=gauss"], "source.kind=gauss: found 'gauss', allowed: gaussian, gamma"),
        (
            ["generator.kind=dcgn"],
            "stylegan2, stylegan3, fastgan, biggan, mlp, or module:Class, a class of your own; did you mean dcgan?",
        ),
        (["augment=[{kind: adda}]"], "or module:Class, a class of your own; did you mean ada?"),
        (["source.kind=images"], "source.path"),
        (["accumulation=2"], "generator.kind=dcgan normalises over the global batch, which accumulation=2 splits"),
        (["discriminator.statistics=micro_batch"], "discriminator.statistics goes with discriminator.norm=batch"),
        (["accumulation=3", "generator.norm=none"], "batch=64 does not divide into accumulation=3"),
        (["selection.kind=fixed"], "selection.k goes with selection.kind=fixed"),
        (["selection.kind=fixed", "selection.k=100"], "selection.k=100 exceeds batch=64"),
        (["selection.kind=adaptive", "selection.k_unit=7"], "selection.k_unit=7 does not divide batch=64"),
        (["penalties.phase=own", "penalties.r1_gamma=1"], "penalties.phase=own needs penalties.interval_steps >= 2"),
        (["objective={kind: hinge, g_reals: shared}"], "objective.g_reals goes with an objective that compares pairs"),
        *(
            ([f"auxiliary=[{{kind: {kind}, lr_factor: 2}}]"], f"kind={kind} has nothing that trains, so lr_factor")
            for kind in ("lecam", "consistency")
        ),
        (["augment=[{kind: mirror}, {kind: ada}, {kind: mirror}]"], "augment: kind=mirror is listed 2 times"),
        (["auxiliary=[{kind: lecam}, {kind: lecam, decay: 0.5}]"], "auxiliary: kind=lecam is listed 2 times"),
        (["compute.loss_scale=8"], "compute.loss_scale goes with compute.precision=fp16"),
        (
            ["selection.kind=fixed", "selection.k=2", "selection.scope=rank", "accumulation=2", "generator.norm=none"],
            "selection.scope=rank needs accumulation=1",
        ),
        (["g_optimizer.lr=nan"], "g_optimizer.lr"),
        (["batch.size=3"], "batch.size: batch is a value"),
        (["augment=[{kind: ada}]", "augment.1.p=0.5"], "augment.1.p: augment is a value"),
        (["augment=[{kind: ada}]", "augment.0.q=0.5"], "augment.0.q=0.5: no such key"),
        (["batch"], "an override is KEY=VALUE"),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides, says):
    with pytest.raises(SpiderUsageError) as refused:
        make_config({"batch": 64}, overrides)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_number_in_a_key_names_a_member_of_a_list():
    tree = {"augment": [{"kind": "mirror"}, {"kind": "ada", "p": 0.1}]}
    config = make_config(tree, ["augment.1.p=0.5", "augment.0.kind=blur"])
    assert [each.kind for each in config.augment] == ["blur", "ada"]
    assert config.augment[1].p == 0.5
    assert tree["augment"] == [{"kind": "mirror"}, {"kind": "ada", "p": 0.1}]


def test_a_batch_that_does_not_divide_over_the_ranks_is_refused():
    config = make_config({"batch": 10})
    config.for_world(5)
    with pytest.raises(SpiderUsageError, match=r"batch=10 does not divide over 4 ranks"):
        config.for_world(4)
    with pytest.raises(SpiderUsageError, match=r"engine.kind=local serves one process"):
        make_config({"batch": 10}, ["engine.kind=local"]).for_world(2)


def test_changing_the_kind_of_a_choice_forgets_the_settings_of_the_other():
    config = make_config({"source": {"kind": "gaussian", "dim": 7, "std": 2.0}}, ["source.kind=cauchy"])
    assert config.source.model_dump() == {"kind": "cauchy", "dim": 100}


def test_numbers_are_read_as_people_write_them():
    assert make_config({}, ["g_optimizer.lr=1e-4"]).g_optimizer.lr == 1e-4


def test_runtime_keys_may_differ_on_resume_and_others_may_not():
    old = make_config({})
    assert (
        differences(old, make_config({}, ["kimg=5", "data.workers=3", "accumulation=1", "checkpoint.keep_last=9"]))
        == []
    )
    assert differences(old, make_config({}, ["seed=1"])) == [("seed", 0, 1)]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([], ["source.kind=gamma"], [("source.kind", "gaussian", "gamma")]),
        (["source.dim=8"], ["source.dim=9"], [("source.dim", 8, 9)]),
        ([], ["augment=[{kind: ada, pipe: bg}]"], [("augment", [], [{"kind": "ada", "pipe": "bg"}])]),
        (
            ["augment=[{kind: ada}]"],
            ["augment=[{kind: ada, pipe: bg}]"],
            [("augment.0.pipe", make_config({}, ["augment=[{kind: ada}]"]).augment[0].pipe, "bg")],
        ),
        (
            [],
            ["g_optimizer.lr={cosine: [1, 0.5], until_kimg: 9}"],
            [("g_optimizer.lr", 2e-4, {"cosine": [1, 0.5], "until_kimg": 9})],
        ),
        ([], ["kimg=3", "data.path=x", "checkpoint.keep_last=9"], []),
    ],
)
def test_only_what_somebody_changed_differs(before, after, said):
    """No default of a choice, of a member of a list or of a schedule."""
    assert differences(make_config({}, before), make_config({}, after)) == said


def every_key():
    """Each key of each choice, with a value that it cannot have, and what its section needs."""
    for key in explain(""):
        section = key.name.rpartition(".")[0]
        chosen = [f"{section}.kind={key.kind}"] if key.kind and not key.name.endswith(".kind") else []
        if ".N." not in key.name and not key.name.startswith("selection.trace."):
            yield key.name, chosen


@pytest.mark.parametrize(("key", "chosen"), list(every_key()))
def test_an_error_says_who_gave_the_value(key, chosen, tmp_path):
    """The override, or the file; the last override of two."""
    wrong = "{wrong: here}"
    with pytest.raises(SpiderUsageError) as refused:
        make_config({}, [*chosen, f"{key}=1", f"{key}={wrong}"], "mine.yaml")
    assert f"{key}={wrong}: " in str(refused.value)
    assert "mine.yaml" not in str(refused.value)
    file = tmp_path / "mine.yaml"
    file.write_text("".join(f"{line.replace('=', ': ', 1)}\n" for line in [*chosen, f"{key}={wrong}"]))
    with pytest.raises(SpiderUsageError, match=rf"{re.escape(str(file))}: .*{re.escape(key)}"):
        load_config(str(file), ["batch=8", "seed=3"] if key not in ("batch", "seed") else [])


@pytest.mark.parametrize(
    "key",
    [key for key in explain("") if key.default == "(required)" and ".N." not in key.name],
    ids=lambda key: key.name,
)
def test_a_key_that_is_missing_says_how_one_gives_it(key):
    section = key.name.rpartition(".")[0]
    how = "--source PLACE" if section == "source" else f"{key.name}=VALUE"
    with pytest.raises(
        SpiderUsageError, match=rf"^{section}\.kind={key.kind}: {key.name}: missing; give {how} "
    ) as found:
        make_config({}, [f"{section}.kind={key.kind}"])
    assert f"({key.description}; spider config explain {key.name})" in str(found.value)


def test_every_key_is_explained():
    for key in explain(""):
        assert key.type
        assert key.description, key.name
    assert set(all_keys()) >= {"penalties.r1_gamma", "source.noise_std", "kimg"}
    with pytest.raises(SpiderUsageError, match=r"did you mean penalties.r1_gamma"):
        explain("r1_gamma")


def test_limits_are_explained_wherever_they_stand():
    types = {key.kind: key.type for key in explain("augment.0.p")}
    assert types["apa"] == "number, schedule or adaptive >= 0 <= 1"
    assert explain("batch")[0].type == "int >= 1 <= 1000000"
    assert explain("generator.sides")[0].type == "list of int >= 5 <= 1000000"
    assert explain("generator.attention")[0].type == "list of int | null >= 4 <= 512"
    assert not [key.name for key in explain("") if "Annotated" in key.type]


def test_members_of_a_list_have_keys():
    (pipe,) = explain("augment.1.pipe")
    assert (pipe.name, pipe.kind) == ("augment.N.pipe", "ada")
    with pytest.raises(SpiderUsageError, match=r"augment\.1\.pip: no such key; did you mean augment\.1\.pipe"):
        load_config("dcgan", ["augment=[{kind: apa}, {kind: ada, pip: bgc}]"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("augment=ada", "augment=ada: must be a list, [..., ...]"),
        ("augment=[ada]", "augment.0: must be a section, {key: value}, found 'ada': write {kind: 'ada'}"),
        ("penalties=3", "penalties=3: must be a section, {key: value}"),
    ],
)
def test_another_shape_is_named_in_the_words_of_yaml(override, said):
    with pytest.raises(SpiderUsageError, match=re.escape(said)):
        load_config("dcgan", [override])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "augment=[{kind: ada, strengths: {foo: 1}}]",
            r"augment\.0\.strengths\.foo: found 'foo', allowed: [\w, ]*xflip[^\[\]]*$",
        ),
        ("evaluate.metrics=[]", r"^evaluate\.metrics=\[\]: must have at least 1 entry$"),
        ("kimg=1e12", r"^kimg=1e12: must be <= 1,000,000,000$"),
        (
            "discriminator={kind: projected, enlarge_to: 200}",
            r": discriminator\.enlarge_to: must be a multiple of 32, found 200$",
        ),
        ("kimg=0", r"^kimg=0: must be >= 0\.001$"),
        ("penalties.r1_gamma=atuo", r"^penalties\.r1_gamma=atuo: must be a number or auto$"),
        ("kimg=auto", r"^kimg=auto: must be a number$"),
    ],
)
def test_an_error_has_the_names_of_keys_and_whole_numbers(override: str, said: str):
    with pytest.raises(SpiderUsageError) as caught:
        load_config("dcgan", [override])
    assert re.search(said, str(caught.value).split("; ")[0])
    assert "[key]" not in str(caught.value)


def test_a_choice_is_explained_by_what_it_chooses():
    kinds = {key.kind: key.description for key in explain("source.kind")}
    assert kinds["gaussian"].startswith("Independent normal coordinates")
    assert len(set(kinds.values())) == len(kinds) == 7
    assert [key.kind for key in explain("generator.kind") if key.default] == ["dcgan"]
    assert not any(key.default for key in explain("augment.0.kind"))


def test_configuration_needs_no_torch():
    code = (
        "import sys, spider.config.load as load, spider.config.explain as e, spider.runs.directory;"
        "load.load_config('dcgan'); e.explain('');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_defaults_make_a_config():
    assert make_config({}) == Config()


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['true']",
        "{a: 1, a: 2}",
        "!!int x",
        "!!bool x",
        "{[1]: 2}",
        "!!timestamp 2020-13-45",
        "[" * 2000,
        "9" * 5000,
    ],
    ids=lambda value: value[:12],
)
def test_a_value_that_yaml_cannot_make_is_refused_in_a_line(value):
    with pytest.raises(SpiderUsageError, match="not plain YAML") as error:
        make_config({}, [f"batch={value}"])
    assert "\n" not in str(error.value)


def test_numbers_that_yaml_1_1_reads_as_others_are_what_they_look_like():
    assert make_config({}, ["batch=010"]).batch == 10
    assert make_config({}, ["batch=1_000"]).batch == 1000
    with pytest.raises(SpiderUsageError, match="batch=12:30: must be a whole number"):
        make_config({}, ["batch=12:30"])


@pytest.mark.parametrize("text", ["'1e5'", '"010"', "'true'", "'1'", "12:30", "2001-01-01", "no", "runs/1e5"])
def test_a_text_stays_a_text_and_reads_back(text: str):
    config = make_config({}, [f"data.path={text}"])
    assert config.data.path == text.strip("'\"")
    assert make_config(parse_yaml(to_yaml(config), "x")) == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\x1b[2Jb", "data.path holds a control character, \\x1b; "),
        ("a\nb", "data.path holds a control character, \\n; "),
        ("a\u2028b", "data.path holds a control character, \\u2028; "),
        ("caf\udce9", "data.path holds a byte that is not UTF-8, \\xe9; "),
    ],
)
def test_text_that_no_file_can_keep_is_refused(text: str, says: str):
    with pytest.raises(SpiderUsageError) as refused:
        make_config({"data": {"path": text}})
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.metrics=[fid,fidd]", "evaluate.metrics: metric 'fidd' is unknown; known: fid, "),
        ("evaluate.embedding=online", "evaluate.embedding: embedding 'online' is unknown; known: inception, "),
        ("evaluate.protocol=mine", "evaluate.protocol: protocol 'mine' is unknown; known: tf, "),
    ],
)
def test_what_measures_nothing_is_refused_without_torch(override, message):
    with pytest.raises(SpiderUsageError, match=re.escape(message)):
        load_config("dcgan", [override])


def test_a_training_without_evaluations_is_told_so():
    (remark,) = make_config({}).remarks
    assert "evaluate.every_kimg=null" in remark
    assert make_config({}, ["evaluate.every_kimg=5"]).remarks == []
