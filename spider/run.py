"""The directory of a run, which is the run, and the ways to name one of its checkpoints.

RUN/
  config.yaml            the whole configuration, every default written out
  inputs.json            the images that it reads, by name and content (spider/inputs.py)
  environment.json       one entry per start: versions, device, world size, command
  metrics.jsonl          one row per `log.every_kimg`: the source of every curve
  tensorboard/           the same rows, and the grids
  samples/reals.png      training images
  samples/000120-kimg.png   each under its number, by which `spider generate RUN@120 --seeds N` makes it again
  topk_trace.jsonl       k of every iteration in the window that `selection.trace` names
  checkpoints/000120-kimg/{manifest.json,*.safetensors,state.json}
  evaluations/000120-kimg.json
  stacks/rank-0.txt      where a rank was that made no step for `engine.timeout_min`
  slurm/                 the jobs of `spider launch`, and what has happened to them (cluster/rank_job.py)
  best.json              which checkpoint is best, by which metric
  _SUCCESS               the run reached its length
  _FAILED                or what ended it instead, and when, in one line; gone when it goes on

A run is named RUN or RUN@last (its newest checkpoint), RUN@best, or RUN@2000 (kimg). A folder that is there wins: with
a run in the folder `a@b`, that is its name, and `a@b@best` its best checkpoint. Checkpoints are saved after whole
batches, so RUN@1 of a run in batches of 64 is the one at 1.024 kimg. This module needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.missing import no_such
from spider.config.load import make_config, parse_yaml, to_yaml
from spider.config.schema import Config
from spider.errors import SpiderError, SpiderUsageError
from spider.files import write_text

_SUFFIX = "-kimg"
STATE_FORMAT = 2  # of what a checkpoint holds; grows when seeds mean other numbers

_RUNS_NAMED = 5  # in an error
_FAILURE_LETTERS = 2000  # of a line that says what ended a run


@dataclass(frozen=True)
class RunDirectory:
    """Paths and small files of a run."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def inputs_file(self) -> Path:
        return self.path / "inputs.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def trace_file(self) -> Path:
        return self.path / "topk_trace.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def stacks(self) -> Path:
        return self.path / "stacks"

    @property
    def best_file(self) -> Path:
        return self.path / "best.json"

    @property
    def success_file(self) -> Path:
        return self.path / "_SUCCESS"

    @property
    def failure_file(self) -> Path:
        return self.path / "_FAILED"

    def failure(self) -> str | None:
        """What ended the training that was here last, and at how many kimg; None if nothing did."""
        try:
            with self.failure_file.open(encoding="utf-8", errors="replace") as file:
                return file.readline(_FAILURE_LETTERS).strip() or None
        except FileNotFoundError:
            return None

    @property
    def exists(self) -> bool:
        """Whether a run lives here."""
        return self.config_file.is_file()

    def config(self) -> Config:
        """The run's configuration. Raises SpiderError if there is none or it does not parse."""
        if not self.exists:
            raise SpiderError(no_run(self.path))
        return make_config(
            parse_yaml(self.config_file.read_text("utf-8"), str(self.config_file)), (), str(self.config_file)
        )

    def write_config(self, config: Config) -> None:
        """Replace config.yaml."""
        write_text(self.config_file, to_yaml(config))

    def checkpoint_names(self) -> list[str]:
        """Names of the finished checkpoints, oldest first."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(p.name for p in self.checkpoints.iterdir() if p.is_dir() and p.name.endswith(_SUFFIX))

    def best(self) -> dict[str, Any] | None:
        """{"checkpoint", "metric", "value"} of the best evaluation so far."""
        return json.loads(self.best_file.read_text("utf-8")) if self.best_file.is_file() else None


@dataclass(frozen=True)
class RunRef:
    """One checkpoint of a run."""

    directory: RunDirectory
    checkpoint: str

    @property
    def path(self) -> Path:
        return self.directory.checkpoints / self.checkpoint

    def __str__(self) -> str:
        return f"{self.directory.path}@{self.checkpoint.removesuffix(_SUFFIX)}"


def checkpoint_name(images: int) -> str:
    """120000 to "000120-kimg", 12300 to "000012.300-kimg": sorts by images seen."""
    whole, rest = divmod(images, 1000)
    return f"{whole:06d}{f'.{rest:03d}' if rest else ''}{_SUFFIX}"


def images_of(checkpoint: str) -> int:
    """The inverse of `checkpoint_name`."""
    return round(float(checkpoint.removesuffix(_SUFFIX)) * 1000)


def kimg_text(images: int) -> str:
    """12300 to "12.3": exact, so that RUN@KIMG finds what was printed. (%g rounds from the seventh digit on.)"""
    return f"{images / 1000:.3f}".rstrip("0").rstrip(".")


def resolve(name: str) -> RunRef:
    """RUN, RUN@last, RUN@best or RUN@KIMG to a checkpoint. Raises SpiderUsageError naming what is there."""
    path, which = split_name(name)
    directory = RunDirectory(Path(path))
    if not directory.exists:
        raise SpiderUsageError(no_run(path))
    names = directory.checkpoint_names()
    if not names:
        raise SpiderError(f"{path}: the run has no checkpoint yet")
    if which in ("", "last"):
        return RunRef(directory, names[-1])
    if which == "best":
        best = directory.best()
        if best is None:
            raise SpiderUsageError(f"{name}: the run was never evaluated (evaluate.every_kimg); use {path}@last")
        return RunRef(directory, _present(best["checkpoint"], names, name))
    try:
        images = round(float(which) * 1000)
    except (ValueError, OverflowError):
        raise SpiderUsageError(f"{name}: after @ comes last, best or a number of kimg") from None
    batch = directory.config().batch
    due = [checkpoint for checkpoint in names if images <= images_of(checkpoint) < images + batch]
    return RunRef(directory, _present(due[0] if due else checkpoint_name(images), names, name))


def require_format(state: Mapping[str, Any], where: str | Path) -> None:
    """Refuse the state of a run whose random numbers were others. `where` names it.

    Raises:
        SpiderError: it is of another format; format 1 drew from numpy's generator.
    """
    found = state.get("format", 1)
    if found != STATE_FORMAT:
        raise SpiderError(
            f"{where}: of another version (format {found} of a run's state; this one has {STATE_FORMAT}), whose random "
            "numbers were others: neither its images nor its training can be continued; use the version that made it"
        )


def no_run(path: str | Path) -> str:
    """Why `path` is no run's, in one line: nothing is there, or something else, which may hold runs."""
    if not Path(path).exists():
        return no_such(path)
    below = [str(config.parent) for config in sorted(Path(path).glob("*/config.yaml"))]
    held = f"; it holds runs: {', '.join(below[:_RUNS_NAMED])}{', ...' if len(below) > _RUNS_NAMED else ''}"
    return f"{path}: no run here (config.yaml is missing){held if below else ''}"


def is_run(name: str) -> bool:
    """Whether `name` names a run, with or without @."""
    return RunDirectory(Path(split_name(name)[0])).exists


def split_name(name: str) -> tuple[str, str]:
    """RUN@WHICH to (RUN, WHICH), and RUN to (RUN, ""). A folder may have an @ in its own name: what is there wins."""
    path, at, which = name.rpartition("@")
    return (path, which) if at and not Path(name).exists() else (name, "")


def _present(checkpoint: str, names: list[str], asked: str) -> str:
    if checkpoint not in names:
        there = ", ".join(kimg_text(images_of(name)) for name in names)
        raise SpiderUsageError(f"{asked}: no checkpoint at {kimg_text(images_of(checkpoint))} kimg; there are {there}")
    return checkpoint
