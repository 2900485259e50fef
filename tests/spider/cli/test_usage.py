"""What cannot be parsed is one line that names the option and the help that lists it. Every command, every option."""

from __future__ import annotations

import re
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from spider.config.explain import all_keys
from tests.spider.cli.commands import COMMANDS, SPIDER

NAMES = {" ".join(path): command for path, command in COMMANDS.items()}
GROUPS = {"": SPIDER, **{name: each for name, each in SPIDER.commands.items() if hasattr(each, "commands")}}


def options(command, *, flags):
    """Every option, in its first spelling, of the kind that takes a value or of the other."""
    for each in command.params:
        if each.param_type_name == "option" and each.is_flag is flags and each.name != "help":
            yield each.opts[0]


def refused(spider, *words, said, see):
    done = spider(*words)
    assert (done.code, done.out) == (2, ""), words
    assert done.err == f"{done.error}\n"
    assert re.match(f"error: {said}", done.error), done.error
    assert done.error.rstrip(")").endswith(f"see {see} --help"), done.error


@pytest.mark.parametrize("name", NAMES)
def test_what_the_parser_refuses_is_one_line_with_the_help_to_read(spider, name):
    words, command, see = name.split(), NAMES[name], f"spider {name}"
    refused(spider, *words, "--bogus", said="--bogus: no such option", see=see)
    for option in options(command, flags=True):
        refused(spider, *words, f"{option}=3", said=f"{option}: takes no value, found '3'", see=see)
    for option in options(command, flags=False):
        refused(spider, *words, option, said=f"{option}: no value follows", see=see)
        slip = f"{option[:-1]}{option[-1] * 2}"
        refused(spider, *words, slip, "x", said=rf"{slip}: no such option; did you mean .*{option}\b", see=see)
    needed = [each for each in command.params if each.required]
    for each in sorted(needed, key=lambda each: each.param_type_name)[:1]:
        called = each.opts[0] if each.param_type_name == "option" else re.escape(each.metavar)
        refused(spider, *words, said=f"{called}: missing", see=see)
    if all(each.nargs != -1 for each in command.params):
        refused(spider, *words, *given(needed), *"abcdef", said=r"got unexpected extra argument", see=see)


def given(parameters):
    for each in parameters:
        yield from ([each.opts[0], "x"] if each.param_type_name == "option" else ["x"])


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_type_is_named_with_what_it_must_be(spider, name):
    command, tried = NAMES[name], 0
    needed = [*given(each for each in command.params if each.required)]
    for parameter in command.params:
        types = kinds(command, parameter)
        if parameter.param_type_name != "option" or not types:
            continue
        option, choices = parameter.opts[0], [choice for each in types for choice in get_args(each)]
        bad = f"{choices[0]}e" if choices else "x"
        known = f"'{bad}' is unknown; known: {re.escape(', '.join(choices))}; did you mean .*{bad[:-1]}"
        said = f"{option}: {known if choices else 'must be'}"
        refused(spider, *name.split(), *needed, option, bad, said=said, see=f"spider {name}")
        tried += 1
    assert tried or name not in ("pack", "train", "interpolate")


def kinds(command, parameter):
    annotation = get_type_hints(command.callback).get(parameter.name)
    return [each for each in (annotation, *get_args(annotation)) if each in (int, float) or get_origin(each) is Literal]


@pytest.mark.parametrize("name", GROUPS)
def test_an_unknown_command_is_met_with_the_one_that_was_meant(spider, name):
    for known in GROUPS[name].commands:
        said = rf"command '{known}e' is unknown; known: .*; did you mean {known}\b"
        refused(spider, *name.split(), f"{known}e", said=said, see=f"spider {name}".rstrip())


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_without_a_command_shows_its_help(spider, name):
    done = spider(*name.split())
    assert "Usage: spider" in done.out + done.err
    assert "error" not in done.err


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_swallows_the_next_one_is_named(spider, name, tmp_path, monkeypatch):
    """As `--data $UNSET --run DIR` does."""
    monkeypatch.chdir(tmp_path)
    command = NAMES[name]
    valued, flags = list(options(command, flags=False)), list(options(command, flags=True))
    for option, following in zip(valued, ["--help", *flags, *valued], strict=False):
        for words in ([following, "x"], [f"{following}=x"]):
            done = spider(*name.split(), option, *words)
            assert done.code == 2, done.out
            assert done.error.startswith(f"error: {option}: is followed by {words[0]}; is a variable of the shell")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("verb", "joined"), [("train", True), ("launch", False)])
def test_a_key_that_is_typed_as_an_option_is_told_how_to_write_it(spider, verb, joined):
    own = {option.removeprefix("--") for flags in (True, False) for option in options(NAMES[verb], flags=flags)}
    keys = {key.replace(".N.", ".0.") for key in all_keys()} - own
    for at, key in enumerate(sorted(keys)):
        typed = key if at % 2 else key.replace("_", "-")
        done = spider(verb, "dcgan", *([f"--{typed}=0.5"] if joined else [f"--{typed}", "0.5"]), "--run", "x")
        assert done.code == 2
        assert done.error == f"error: --{typed}: is a key of the configuration, not an option; write {key}=0.5"


def test_the_last_part_of_a_key_names_all_that_may_be_meant(spider):
    done = spider("train", "dcgan", "--run", "x", "--lr", "1e-3")
    assert done.error.endswith("; write g_optimizer.lr=1e-3 or d_optimizer.lr=1e-3")
    assert spider("train", "dcgan", "--generator", "r3gan").error.endswith("; write generator.kind=r3gan")
    assert spider("train", "dcgan", "--lr").error.endswith("; write g_optimizer.lr=VALUE or d_optimizer.lr=VALUE")


def test_a_command_without_keys_is_not_told_of_them(spider):
    assert "configuration" not in spider("evaluate", "x", "--batch=50").error


def test_words_after_two_dashes_and_values_that_are_joined_are_no_options(spider):
    """`--data=--run` has a value that looks like an option, and `-- --batch` is an argument."""
    for words in (["--data=--seed"], ["--", "--batch=50"]):
        said = spider("train", "--run", "x", *words).error
        assert "followed by" not in said
        assert "not an option" not in said
