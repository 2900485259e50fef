"""Fixtures for the tests of every package."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks

# As the ranks have one thread each: bits are the same for the same threads only. torch heeds it when it is imported,
# which nothing above does
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray gives its workers a niceness of 15, which what they train inherits: beside other tests they would hardly run
os.environ.setdefault("RAY_worker_niceness", "0")

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


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing is read from or written to the user's caches."""
    root = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIDER_CACHE", str(root / "spider"))
        patch.setenv("XDG_CACHE_HOME", str(root / "xdg"))
        yield root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of scikit-learn's digits, 8 x 8 grey, in shards small enough that there are several."""
    from shards.pack import pack

    out = tmp_path_factory.mktemp("packed") / "digits"
    pack("builtin:digits", out, subset=300, shard_mb=0.1, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patches of photographs, 16 x 16 colour."""
    from shards.pack import pack

    out = tmp_path_factory.mktemp("packed") / "patches"
    pack("builtin:patches", out, resolution=16, subset=200, workers=1, progress=False)
    return out


class Head(NamedTuple):
    """A Ray cluster: where it is, and the process that all of it descends from."""

    address: str
    pid: int


@pytest.fixture(scope="module")
def start_ray() -> Iterator[Callable[[int, int], Head]]:
    """`start_ray(cores, gpus)`: a cluster with room for so much, whatever this machine has, until the module ends."""
    with ExitStack() as stack:
        yield lambda cores, gpus: stack.enter_context(_ray(cores, gpus))


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


@contextmanager
def _ray(cores: int, gpus: int) -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need short names
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--temp-dir={folder}"]
    command += [f"--num-cpus={cores}", f"--num-gpus={gpus}", "--include-dashboard=false", "--disable-usage-stats"]
    # Any ports that are free: those that Ray would take are the same in every cluster of this machine
    command += ["--port=0", "--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={port}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as head:
        assert head.stdout is not None
        lines = (re.search(r"--address='([\d.:]+)'", line) for line in head.stdout)
        yield Head(next(found[1] for found in lines if found), head.pid)
        os.killpg(head.pid, signal.SIGKILL)  # asked to end, it takes half a minute
        head.stdout.read()
    shutil.rmtree(folder, ignore_errors=True)
