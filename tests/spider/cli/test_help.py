"""Every command says what it does and shows how, and what it shows is accepted."""

from __future__ import annotations

import shlex

import pytest
from torch.distributed.run import get_args_parser

from spider import api
from spider.judge.metrics.protocols import PROTOCOLS
from spider.judge.metrics.registry import METRICS
from spider.measures import GENERATOR_METRICS
from tests.spider.cli.commands import COMMANDS as LEAVES

COMMANDS = {("spider", *path): command for path, command in LEAVES.items()}
NAMES = [" ".join(path[1:]) for path in COMMANDS]


def examples(path):
    epilog = COMMANDS[path].epilog or ""
    return [line.strip() for line in epilog.splitlines() if line.startswith("  ")]


def test_the_verbs_are_the_contract():
    assert set(NAMES) >= {
        *("pack", "verify", "neighbors", "train", "presets", "config explain", "evaluate", "generate"),
        *("interpolate", "project"),
        *("weights list", "weights get", "weights verify", "ls", "compare", "demo", "import", "export"),
    }
    for name in NAMES:
        first, _, second = name.partition(" ")
        function = {"weights": "weights", "import": "import_pickle"}.get(first, second or first)
        assert hasattr(api, function), name


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_shows_an_example_that_it_accepts(path):
    assert examples(path)
    for example in examples(path):
        words = shlex.split(example.partition(" > ")[0])
        if words[0] == "torchrun":
            words = words[words.index("-m") + 1 :]
        assert tuple(words[: len(path)]) == path
        # a group's own parser runs no command: the rest is this one's
        COMMANDS[path].make_context(path[-1], words[len(path) :])


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_is_described(path, spider):
    command = COMMANDS[path]
    assert len(command.help.partition("\n")[0]) <= 60, "the list of commands cuts longer ones"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{' '.join(path)}: {parameter.name}"
    shown = spider(*path[1:], "--help")
    assert shown.code == 0
    assert "Example" in shown.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_torchrun_passes_the_examples_on(path):
    """Some Pythons' argparse takes a script's option for a short form of the launcher's own."""
    for example in examples(path):
        if example.startswith("torchrun "):
            _, *words = shlex.split(example)
            passed = get_args_parser().parse_args(words)
            assert [passed.training_script, *passed.training_script_args] == words[words.index("-m") + 1 :]


def test_help_names_every_metric_and_protocol(spider):
    shown = " ".join(spider("evaluate", "--help").out.split())
    assert ", ".join(METRICS) in shown
    assert ", ".join(GENERATOR_METRICS) in shown
    for name in PROTOCOLS:
        assert name in shown
