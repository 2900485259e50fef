"""Fixtures for the tests of every package."""

from __future__ import annotations

import importlib.util
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks

# As the ranks have one thread each: bits are the same for the same threads only. torch heeds it when it is imported,
# which nothing above does
os.environ.setdefault("OMP_NUM_THREADS", "1")

# nohup, and what starts jobs without a terminal, leave it ignored, and every process of a test would inherit that
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Processes that stand for the ranks of a run: `ranks(4).run(function, *args)`, see tests/cluster/ranks.py."""
    with _loaded("cluster/ranks.py").Ranks() as pool:
        yield pool


class Programs:
    """Stands for Slurm's: programs that are found before the system's, and note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def play(self, name: str, does: str = "") -> None:
        """A program of that name runs these lines of shell."""
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "$@" >> {program}.calls\n{does}\n')
        program.chmod(stat.S_IRWXU)

    def calls(self, name: str) -> list[str]:
        """With which arguments it was called."""
        file = self.folder / f"{name}.calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """`programs.play("squeue", "echo RUNNING")`, and nothing else of Slurm."""
    folder = tmp_path_factory.mktemp("programs")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    played = Programs(folder)
    for name in ("sbatch", "squeue", "scancel", "scontrol"):  # a real one would answer of its own jobs
        played.play(name, "exit 1")
    played.play("squeue")  # it answers, and knows of no job
    return played


def _loaded(path: str) -> ModuleType:
    """A module of tests. By path, because pytest's importlib mode puts no folder of tests on sys.path."""
    name = f"tests.{path.removesuffix('.py').replace('/', '.')}"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
