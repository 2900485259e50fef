"""A small run, made once per session; and verbs that only check."""

from __future__ import annotations

import errno
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest

from spider import api
from spider.data import locate_images
from spider.judge import evaluation
from spider.pictures import project
from spider.runs import generator

WORK = (
    "spider.api.checkpoint_bytes",
    "shards.pack.open_series",
    "shards.verify.map_ordered",
    "spider.judge.compare_figure.Figure",
    "spider.demo.story.demo",
    "spider.judge.evaluation.evaluate_images",
    "spider.gan.sources.frozen.FrozenGenerator.__call__",
    "spider.pictures.projection.judge.Judge.__init__",
    "spider.exchange.exporting.whole_folder",
    "spider.jobs.launch.submit_command",
    "spider.jobs.pipeline.submit_command",
    "spider.cost.dry_run.dry_run",
    "spider.study.study.find",
    "spider.study.study.keep",
    "spider.study.study.left",
    "spider.toy.lab._learn",
    "spider.train.loop.train",
    "neighbors.find._load",
    "spider.judge.classes.build.EfficientNetEmbedding",
    "sweeps.sweep.sweep",
    "sweeps.cost.sweep_cost",
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

    openers = ((evaluation, "load_embedding"), (generator, "open_generator"), (project, "perceptual_distance"))
    for module, opener in openers:
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


@pytest.fixture(scope="session")
def plane(caches: Path) -> None:
    """The points that toys learn are packed: each would begin to pack 20,000, and look at all of them before."""
    locate_images("builtin:gaussians8")


@pytest.fixture
def study_file(digits: Path, tmp_path: Path) -> Path:
    """A study of one run."""
    (tmp_path / "study.yaml").write_text(
        f"title: one\nvalues: {{a: 1}}\nvariants: {{plain: {{}}}}\nmeasure: {{metrics: fid, embedding: offline}}\n"
        f"train: {{config: dcgan, data: {digits}, kimg: 1, overrides: evaluate.every_kimg=1}}\n"
    )
    return tmp_path / "study.yaml"
