"""Ctrl-C at any moment of a command leaves no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Ctrl-C at the moment when a module is first looked for
INTERRUPTED_AT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["spider", *{words!r}]
signal.signal(signal.SIGINT, {handler})
from spider.__main__ import main
main()
"""
NO_RUN = ["ls", "."]


def interrupted(module, words=NO_RUN, handler="signal.default_int_handler"):
    code = INTERRUPTED_AT.format(module=module, words=words, handler=handler)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("module", ["spider.cli.main", "typer", "spider.api", "cluster.errors"])
def test_while_the_program_loads_it_ends_without_a_word(module):
    done = interrupted(module)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_while_a_command_loads_its_part_it_is_answered(tmp_path):
    done = interrupted("spider.runs.listing")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_where_it_is_ignored_it_stays_ignored():
    done = interrupted("typer", ["--version"], "signal.SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("spider ")
