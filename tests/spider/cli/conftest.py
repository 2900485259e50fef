"""The command line in this process, with caches of its own, and a few tiny runs made through it."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spider.cli.main import app

TINY = [
    "batch=8",
    "generator.width=0.05",
    "discriminator.width=0.05",
    "log.every_kimg=0.04",
    "log.samples=4",
    "log.tensorboard=false",
    "checkpoint.every_kimg=0.08",
]
MEASURED = ["evaluate.every_kimg=0.08", "evaluate.embedding=offline", "evaluate.count=64"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The one line that the user sees."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def run_command(*args):
    """`spider ARGS`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([str(arg) for arg in args], prog_name="spider")
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def spider(caches):
    """Run a command: spider("ls", folder) -> Outcome."""
    return run_command


@pytest.fixture
def photos(tmp_path):
    """Ten images of 12 x 12, in two classes."""
    rng = np.random.default_rng(0)
    for number in range(10):
        file = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(file)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def tiny():
    """Keys of a run that trains in an instant."""
    return TINY


@pytest.fixture(scope="session")
def runs(spider, digits, patches, tmp_path_factory) -> Path:
    """gaussian (measured, 0.16 kimg), patches (fed images of photographs) and cascade (fed gaussian's images)."""
    root = tmp_path_factory.mktemp("runs")
    for name, source, keys in (
        ("gaussian", "gaussian", ["--kimg", "0.16", *MEASURED]),
        ("patches", patches, ["--kimg", "0.08", "source.noise_std=0.25", *MEASURED]),
        ("cascade", f"{root}/gaussian@last", ["--kimg", "0.04", "source.noise_std=0.1"]),
    ):
        done = spider("train", "dcgan", "--data", digits, "--source", source, "--run", root / name, *keys, *TINY)
        assert done.code == 0, done.err
    return root
