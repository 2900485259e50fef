"""Small packed datasets, caches of the tests' own, and a Ray of any size."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from shards.pack import pack


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
    """300 of scikit-learn's digits, 8 x 8 grey."""
    out = tmp_path_factory.mktemp("sets") / "digits"
    pack("builtin:digits", out, subset=300, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patches of photographs, 16 x 16 colour."""
    out = tmp_path_factory.mktemp("sets") / "patches"
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
