"""The directory of a run, which is the run, and the ways to name one of its checkpoints.

RUN/
  config.yaml            the whole configuration, every default written out
  inputs.json            the images that it reads, by name and content (spider/runs/inputs.py)
  init.json              which of the weights that it was given fitted (spider/gan/init/fit.py)
  imported.json          of an import: where its networks come from (spider/exchange/importing.py)
  environment.json       one entry per start: versions, device, world size, command
  metrics.jsonl          one row per `log.every_kimg`: the source of every curve
  tensorboard/           the same rows, and the grids
  samples/reals.png      training images
  samples/000120-kimg.png   each under its number, by which `spider generate RUN@120 --seeds N` makes it again
  topk_trace.jsonl       k of every iteration in the window that `selection.trace` names
  checkpoints/000120-kimg/{manifest.json,*.safetensors,state.json}
  evaluations/000120-kimg.json
  stacks/rank-0.txt      where a rank was that made no step for `engine.timeout_min`
  slurm/                 the jobs of `spider launch`, and what has happened to them (cluster/jobs/slurm_job.py)
  best.json              which checkpoint is best, by which metric
  _SUCCESS               the run reached its length
  _FAILED                or what ended it instead, and when, in one line; gone when it goes on

A run is named RUN or RUN@last (its newest checkpoint), RUN@best, or RUN@2000 (kimg). A folder that is there wins: with
a run in the folder `a@b`, that is its name, and `a@b@best` its best checkpoint. Checkpoints are saved after whole
batches, so RUN@1 of a run in batches of 64 is the one at 1.024 kimg. This module needs no torch.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.errors import one_line
from cluster.manifest import TENSORS_SUFFIX, checkpoint_names, read_manifest
from shards.missing import no_such
from spider.config.load import make_config, read_mapping, to_yaml
from spider.config.schema import Config
from spider.errors import SpiderError, SpiderUsageError
from spider.files import write_text
from spider.runs.records import BestRecord, EnvironmentRecord, MetricsRecord, StartRecord, is_checkpoint_name
from untrusted.errors import UnreadableError
from untrusted.files import open_regular
from untrusted.json_data import read_json
from untrusted.rows import Rows, newest_rows, read_rows
from untrusted.typed import checked
from untrusted.words import did_you_mean

_RUNS_NAMED = 5  # in an error


T = TypeVar("T")

_SUFFIX = "-kimg"
STATE_FORMAT = 2  # of what a checkpoint holds; grows when seeds mean other numbers
_FAILURE_BYTES = 2000  # of a line that says what ended a run
NOT_FINITE = "guard.max_skipped="  # stands in it if that was numbers that are not finite (spider/train/guard.py)


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
    def init_file(self) -> Path:
        return self.path / "init.json"

    @property
    def imported_file(self) -> Path:
        return self.path / "imported.json"

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
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def success_file(self) -> Path:
        return self.path / "_SUCCESS"

    @property
    def failure_file(self) -> Path:
        return self.path / "_FAILED"

    def failure(self) -> str | None:
        """What ended the training that was here last, and at how many kimg; None if nothing did. Raises as `rows`."""
        with _as_spider_error():
            try:
                with open_regular(self.failure_file, sys.maxsize) as (file, _):
                    line = file.readline(_FAILURE_BYTES)
            except FileNotFoundError:
                return None
        return line.decode("utf-8", "replace").strip() or None

    @contextmanager
    def noting_failure(self, images: Callable[[], int]) -> Iterator[None]:
        """Note in `_FAILED` what ends a training within, because nobody may see the screen where it stands.

        Args:
            images: tells the clock.
        """
        try:
            yield
        except Exception as error:
            with suppress(OSError):  # the disk may be what failed
                write_text(self.failure_file, f"at {images() / 1000:g} kimg: {one_line(error)}\n")
            raise

    @property
    def exists(self) -> bool:
        """Whether a run lives here."""
        return self.config_file.is_file()

    def config(self) -> Config:
        """The run's configuration. Raises SpiderError if there is none or it does not parse."""
        if not self.exists:
            raise SpiderError(no_run(self.path))
        return make_config(read_mapping(self.config_file), (), str(self.config_file))

    def write_config(self, config: Config) -> None:
        """Replace config.yaml."""
        write_text(self.config_file, to_yaml(config))

    def write_init(self, fits: Mapping[str, Any]) -> None:
        """Replace init.json: by network, how the weights fit that it was given."""
        lines = json.dumps(fits, indent=1)
        shapes = re.sub(
            r"\[\n[\d,\s]*\]", lambda shape: f"[{' '.join(shape[0][1:-1].split())}]", lines
        )  # each in its line
        write_text(self.init_file, shapes + "\n")

    def checkpoint_names(self) -> list[str]:
        """Names of the finished checkpoints, oldest first; not of copies of them (see cluster/manifest.py)."""
        return [name for name in checkpoint_names(self.checkpoints) if is_checkpoint_name(name)]

    def best(self) -> BestRecord | None:
        """The best evaluation so far. Raises SpiderError if best.json is damaged."""
        return _read(self.best_file, BestRecord)

    def write_best(self, best: BestRecord | None) -> None:
        """Replace best.json; None: remove it."""
        if best is None:
            self.best_file.unlink(missing_ok=True)
        else:
            write_text(self.best_file, json.dumps(best) + "\n")

    def starts(self) -> list[StartRecord]:
        """Where and with what it was started, oldest first. Raises SpiderError if environment.json is damaged."""
        found = _read(self.environment_file, EnvironmentRecord)
        return [] if found is None else found["starts"]

    def rows(self) -> Rows[dict[str, Any]]:
        """All rows of metrics.jsonl (see `MetricsRecord`). Raises SpiderError if it is no file of rows."""
        with _as_spider_error():
            found = read_rows(self.metrics_file, MetricsRecord)
        return found.each(lambda row: row.model_dump(exclude_unset=True))

    def last_row(self) -> dict[str, Any] | None:
        """The newest whole row of metrics.jsonl; None without one. Raises as `rows`."""
        with _as_spider_error():
            newest = next(newest_rows(self.metrics_file, MetricsRecord), None)
        return None if newest is None else newest.model_dump(exclude_unset=True)

    def evaluation_files(self) -> dict[int, Path]:
        """The files of evaluations by their clock in images, in its order."""
        files = [file for file in self.evaluations.glob("*.json") if is_checkpoint_name(file.stem)]
        return dict(sorted((images_of(file.stem), file) for file in files))


def _read(file: Path, kind: type[T]) -> T | None:
    """What a small file holds; None if it is not there. Raises SpiderError: the file, the key, what was found."""
    with _as_spider_error():
        try:
            return checked(read_json(file), kind, str(file))
        except FileNotFoundError:
            return None


@contextmanager
def _as_spider_error() -> Iterator[None]:
    try:
        yield
    except UnreadableError as error:
        raise SpiderError(str(error)) from None


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


def weights_digest(ref: RunRef) -> str:
    """The sha256 of the file of the averaged generator's weights, as the checkpoint's manifest has it; empty: none."""
    listed = read_manifest(ref.path).files.get(f"generator_ema{TENSORS_SUFFIX}")
    return "" if listed is None else listed.sha256


def checkpoint_name(images: int) -> str:
    """120000 to "000120-kimg", 12300 to "000012.300-kimg": sorts by images seen."""
    whole, rest = divmod(images, 1000)
    return f"{whole:06d}{f'.{rest:03d}' if rest else ''}{_SUFFIX}"


def images_of(checkpoint: str) -> int:
    """The inverse of `checkpoint_name`. Raises ValueError for what is none."""
    if not is_checkpoint_name(checkpoint):
        raise ValueError(f"{checkpoint!r} is no name of a checkpoint")
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
        close = did_you_mean(which, ("last", "best"))
        raise SpiderUsageError(f"{name}: after @ comes last, best or a number of kimg{close}") from None
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
    if (weights := Path(path) / f"generator{TENSORS_SUFFIX}").is_file():  # of spider export
        return f"{path}: no run here, but exported weights: spider train --init {weights} begins with them"
    return f"{path}: no run here (config.yaml is missing){held if below else ''}"


def is_run(name: str) -> bool:
    """Whether `name` names a run, with or without @."""
    return RunDirectory(Path(split_name(name)[0])).exists


def names_run(name: str) -> bool:
    """Whether `name` is that of a run, or of a checkpoint of one that may not be there."""
    return is_run(name) or ("@" in name and not Path(name).exists())


def split_name(name: str) -> tuple[str, str]:
    """RUN@WHICH to (RUN, WHICH), and RUN to (RUN, ""). A folder may have an @ in its own name: what is there wins."""
    path, at, which = name.rpartition("@")
    return (path, which) if at and not Path(name).exists() else (name, "")


def _present(checkpoint: str, names: list[str], asked: str) -> str:
    if checkpoint not in names:
        there = ", ".join(kimg_text(images_of(name)) for name in names)
        raise SpiderUsageError(f"{asked}: no checkpoint at {kimg_text(images_of(checkpoint))} kimg; there are {there}")
    return checkpoint
