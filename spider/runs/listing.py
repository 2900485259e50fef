"""The runs below a folder: what each is, and how far it came. Reads small files only, and needs no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cluster.lock import is_taken
from shards.missing import no_such
from spider.config.schema import Config
from spider.errors import SpiderError
from spider.runs.directory import RunDirectory, images_of, split_name
from spider.runs.records import BestRecord
from spider.settings.marks import Named, named
from untrusted.terminal import warn

T = TypeVar("T")

_ALIVE_S = 600.0  # a run that wrote within this may be running; twice the longest row that is likely


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        name: its path below the folder that was listed.
        state: `running`, a training is in it; `finished`, its last evaluation too; `stopped`; `failed`, see `failure`;
            `never started`; `imported`, without a training; `unreadable`, see `problem`.
            `running?` is a guess, where the run's lock cannot be asked: it wrote within ten minutes and nothing was
            saved since.
        kimg: of the newest checkpoint, or of the newest row of metrics.jsonl if that is later.
        last_checkpoint: in kimg.
        best: {"checkpoint", "metric", "value"}.
        problem: what cannot be read of it, in one line.
    """

    name: str
    state: str
    kimg: float = 0.0
    length_kimg: float = 0.0
    source: str = ""
    condition: str = ""
    objective: str = ""
    selection: str = ""
    best: BestRecord | None = None
    last_checkpoint: float | None = None
    size_bytes: int = 0
    problem: str | None = None
    failure: str | None = None

    @property
    def progress(self) -> str:
        """How far it is, of how far it goes, in kimg; `-` for what does not train."""
        return "-" if self.state == "imported" else f"{self.kimg:g}/{self.length_kimg:g}"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def list_runs(folder: str | Path) -> list[RunSummary]:
    """Every run in `folder` and below it, by name. Raises SpiderError if there is no such folder."""
    root = Path(folder)
    if not root.is_dir():
        raise SpiderError(no_such(root))
    return [summarise(directory, root) for directory in find_runs(root)]


def find_runs(folder: Path) -> Iterator[RunDirectory]:
    """The runs in `folder` and below it, by name. Within a run there are none.

    A folder below that may not be looked into is left out with a warning. Raises OSError if `folder` may not.
    """
    directory = RunDirectory(folder)
    if directory.exists:
        yield directory
        return
    with os.scandir(folder) as entries:
        children = sorted(folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for child in children:
        try:
            yield from find_runs(child)
        except OSError as error:
            warn(f"{child}: {error.strerror}; no run is looked for in it")


def describe_source(config: Config) -> str:
    """`gaussian`, `images letters`, `generator runs/g1@best`."""
    return " ".join([config.source.kind, *(_short(each) for each in named(config, "source."))])


def _short(each: Named) -> str:
    path, which = split_name(each.place) if each.what == "run" else (each.place, "")
    return f"{Path(path).name}{f'@{which}' if which else ''}"


def describe_best(best: BestRecord | None) -> str:
    """`FID 12.3 at 2000 kimg`, or `-`."""
    return (
        "-"
        if best is None
        else f"{best['metric']} {best['value']:.4g} at {images_of(best['checkpoint']) / 1000:g} kimg"
    )


def summarise(directory: RunDirectory, root: Path) -> RunSummary:
    """One run, named by its path below `root`."""
    try:
        return _summary(directory, root, directory.config())
    except (SpiderError, OSError) as error:
        return unreadable(directory, root, error)


def unreadable(directory: RunDirectory, root: Path, error: Exception) -> RunSummary:
    """A run of which `error` says what cannot be read."""
    return RunSummary(name_of(directory, root), "unreadable", size_bytes=_size(directory.path), problem=str(error))


def _summary(directory: RunDirectory, root: Path, config: Config) -> RunSummary:
    problems: list[str] = []
    best, written = _tried(directory.best, problems), _tried(partial(images_written, directory), problems)
    failure = _tried(directory.failure, problems)
    saved = [images_of(checkpoint) for checkpoint in directory.checkpoint_names()]
    images = max([*saved[-1:], written or 0])
    return RunSummary(
        name=name_of(directory, root),
        state=_state(directory, config, saved, written is not None, failure is not None),
        kimg=images / 1000,
        length_kimg=config.kimg,
        source=describe_source(config),
        condition=config.condition.kind,
        objective=config.objective.kind,
        selection=config.selection.kind,
        best=best,
        last_checkpoint=saved[-1] / 1000 if saved else None,
        size_bytes=_size(directory.path),
        failure=failure,
        problem="; ".join(problems) or None,
    )


def _tried(read: Callable[[], T], problems: list[str]) -> T | None:
    """What `read` gives; None, and why, if a file is damaged."""
    try:
        return read()
    except (SpiderError, OSError) as error:
        problems.append(str(error))
        return None


def name_of(directory: RunDirectory, root: Path) -> str:
    """Its path below `root`, or its own name."""
    return str(directory.path.relative_to(root)) if directory.path != root else directory.path.name or "."


def images_written(directory: RunDirectory) -> int | None:
    """The clock of the newest whole row of metrics.jsonl; None without one."""
    row = directory.last_row()
    return None if row is None else int(row["images"])


def _state(directory: RunDirectory, config: Config, saved: list[int], has_rows: bool, has_failed: bool) -> str:
    taken = is_taken(directory.path)
    if taken:
        return "running"
    if has_failed:
        return "failed"
    if directory.imported_file.exists():
        return "imported"
    if saved and saved[-1] >= round(config.kimg * 1000) and directory.success_file.exists():
        return "finished"
    if not (saved or has_rows):
        # A start that was killed before its first row has left that it began
        return "stopped" if (directory.path / "environment.json").is_file() else "never started"
    if taken is None and has_rows:
        written = directory.metrics_file.stat().st_mtime
        checkpoints = [(directory.checkpoints / name).stat().st_mtime for name in directory.checkpoint_names()]
        if time.time() - written < _ALIVE_S and written > max(checkpoints, default=0.0):
            return "running?"
    return "stopped"


def _size(folder: Path) -> int:
    """Bytes of all files below `folder` that can be asked."""
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):  # of a checkpoint that a running run has just pruned
                total += os.lstat(os.path.join(path, file)).st_size
    return total
