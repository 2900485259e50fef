"""Small packed datasets and a small run, made once per session; and verbs that only check."""

from __future__ import annotations

import errno
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest

from shards.pack import pack
from spider import api, evaluation
from spider.sources import build


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of scikit-learn's digits, 8 x 8 grey, in shards small enough that there are several."""
    out = tmp_path_factory.mktemp("packed") / "digits"
    pack("builtin:digits", out, subset=300, shard_mb=0.1, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 patches of photographs, 16 x 16 colour."""
    out = tmp_path_factory.mktemp("packed") / "patches"
    pack("builtin:patches", out, resolution=16, subset=200, workers=1, progress=False)
    return out


WORK = (
    "spider.api.checkpoint_bytes",
    "shards.pack.open_series",
    "shards.verify.map_ordered",
    "spider.compare_figure.Figure",
    "spider.demo.story.demo",
    "spider.evaluation.evaluate_images",
    "spider.frozen.FrozenGenerator.__call__",
    "spider.launch.submit_command",
    "spider.pipeline.submit_command",
    "spider.train.dry_run.dry_run",
    "spider.train.loop.train",
    "sweeps.neighbors._load",
    "sweeps.sweep.sweep",
    "sweeps.sweep_cost.sweep_cost",
)  # of every verb, as checks end and it begins


class WorkBegan(Exception):
    """All checks have passed, and the work of a verb would begin."""


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> type[WorkBegan]:
    """Every verb checks what it is given, and raises WorkBegan where its work would begin."""

    def begin(*arguments: object, **options: object) -> None:
        raise WorkBegan

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    for module, opener in ((evaluation, "load_embedding"), (build, "open_generator")):
        monkeypatch.setattr(module, opener, cache(getattr(module, opener)))  # slow, and called for every value
    for work in WORK:
        resolve_name(work)  # a module that is first imported below would keep what stands in for another's work
    for work in WORK:
        monkeypatch.setattr(work, begin)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    return WorkBegan


@pytest.fixture(scope="session")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, fed vectors."""
    run = tmp_path_factory.mktemp("trained") / "run"
    small = ["batch=8", "generator.width=0.05", "discriminator.width=0.05", "log.samples=4", "log.tensorboard=false"]
    api.train("dcgan", run, data=digits, kimg=0.016, overrides=small)
    return run
