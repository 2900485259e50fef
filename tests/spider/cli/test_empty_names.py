"""An empty name, as of a variable of the shell that is not set, is no name of the current folder."""

from __future__ import annotations

import pytest

from shards.errors import ShardsUsageError
from spider import api
from spider.config.load import make_config
from spider.data import absolute
from spider.errors import SpiderUsageError
from sweeps.config import make_sweep
from tests.spider.cli.commands import COMMANDS


def cases():
    """Every option that takes a value, of every command, with an empty one, in both ways to write it."""
    for path, command in COMMANDS.items():
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                given = ["" if each is parameter else "x" for each in arguments]
                yield [*path, *given], "an argument"
            elif not parameter.is_flag:
                *_, option = parameter.opts
                yield [*path, option, ""], option
                yield [*path, f"{option}= "], option


CASES = list(cases())


def test_all_verbs_are_walked_over():
    verbs = {words[0] for words, _ in CASES}
    assert verbs >= {"pack", "train", "launch", "evaluate", "generate", "sweep", "demo", "ls"}
    assert {"--run", "--out", "--data", "--source", "--reference", "--grid", "--slurm"} <= {name for _, name in CASES}


def test_an_empty_word_is_refused_by_every_verb_before_the_work(spider, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, name in CASES:
        done = spider(*words)
        assert done.code == 2, words
        assert done.error.startswith(f"error: {name}"), words
        assert "is empty" in done.error
    assert not any(tmp_path.iterdir())


def test_an_empty_value_of_a_key_is_refused(spider, tmp_path, digits):
    words = ["train", "dcgan", "--data", digits, "--run", tmp_path / "run"]
    for key in ("evaluate.reference", "evaluate.weights", "source.path", "batch", "data.path"):
        assert f"error: {key}=: no value" in spider(*words, f"{key}=").error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "tree"),
    [
        ("source.path", {"source": {"kind": "images", "path": ""}}),
        ("source.run", {"source": {"kind": "generator", "run": " "}}),
        ("evaluate.reference", {"evaluate": {"reference": ""}}),
        ("evaluate.weights", {"evaluate": {"weights": ""}}),
        ("data.path", {"data": {"path": " "}}),
    ],
)
def test_an_empty_place_in_a_configuration_is_refused_by_its_key(key, tree):
    with pytest.raises(SpiderUsageError, match=rf"{key}: is (empty|blank)"):
        make_config(tree)


@pytest.mark.parametrize("arguments", [{"data": ""}, {"source": ""}, {"run": " "}])
def test_an_empty_place_through_python_is_refused(arguments, tmp_path, digits):
    with pytest.raises(SpiderUsageError, match="is empty"):
        api.train("dcgan", **{"run": tmp_path / "run", "data": digits, **arguments})


SWEEP = {"config": "dcgan", "data": "builtin:digits", "kimg": 1, "overrides": {"evaluate.every_kimg": 1}}


@pytest.mark.parametrize(
    ("key", "tree"),
    [
        ("data", {"data": "", "space": {"batch": {"grid": [8]}}}),
        ("config", {"config": "", "space": {"batch": {"grid": [8]}}}),
        ("overrides.evaluate.reference", {"overrides": {"evaluate.reference": ""}, "space": {"batch": {"grid": [8]}}}),
        ("space.source", {"space": {"source": {"grid": [""]}}}),
        ("sources", {"space": {"source": {"neighbors": {"sources": [""]}}}}),
    ],
)
def test_an_empty_place_in_a_sweep_is_refused_by_its_key(key, tree):
    with pytest.raises((SpiderUsageError, ShardsUsageError), match=rf"{key}.* empty"):
        make_sweep({**SWEEP, **tree})


@pytest.mark.parametrize("name", ["", "  "])
def test_no_empty_name_becomes_the_current_folder(name):
    with pytest.raises(ShardsUsageError, match="empty"):
        absolute(name)
