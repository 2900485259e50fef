"""What stages read: that it is there before any begins, or that a stage makes it. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ClusterError
from shards.errors import ShardsError
from spider.errors import SpiderError, SpiderUsageError
from spider.jobs.stages import Stage
from spider.request import Reads, Request
from spider.runs.compose import inputs_before
from spider.runs.directory import RunDirectory, names_run, split_name
from spider.runs.inputs import Inputs, at_key, require_found
from spider.runs.request import TrainRequest
from spider.settings.marks import Named, Names, What, named

_ABSOLUTE = re.compile(r"(?<![^\s\"'=:;(])/[^\s\"'=:;,|&<>()]+")  # in a line of shell


def require_there(
    stages: Sequence[Stage], todo: Sequence[Stage], folder: Path, called: Callable[[str], str] = "stage {}".format
) -> None:
    """Refuse what stages read and no stage makes, if it is not there. Whatever is in their folder stages make.

    What the `setup` lines of a stage's Slurm request name may be on its node alone, and is not looked for.

    Args:
        stages: all of them.
        todo: those that will be done. What the others have read may be gone.
        folder: theirs, absolute.
        called: by a stage's name, what the error begins with.

    Raises:
        SpiderUsageError: the stage, the key, and what is not there.
        SpiderError, ShardsError, ClusterError: the stage, and what it reads that is damaged or does not answer.
    """
    runs = made_runs(stages)
    made = {stage.name: _made_by(stage) for stage in stages}
    for stage in todo:
        above = [folder, *(place for places in made.values() for place in places), *_of_node(stage)]
        below = [place for name, places in made.items() if name != stage.name for place in places]
        try:
            known = _read_before(stage.request)
            for each in read_by(stage.request, runs):
                place = folder_of(each)
                is_made = any(place.is_relative_to(other) for other in above)
                if is_made or (each.what == "images" and any(other.is_relative_to(place) for other in below)):
                    continue
                with at_key(each.key), _naming_setup(stage, each):
                    require_found(each, known.get(each.key))
        except (SpiderError, ShardsError, ClusterError) as error:
            kind = SpiderUsageError if error.exit_code == SpiderUsageError.exit_code else type(error)
            raise kind(f"{called(stage.name)}: {error}") from None


def _made_by(stage: Stage) -> list[Path]:
    """The run, files and folders, absolute."""
    run = stage.request.made_run
    return [*([] if run is None else [run]), *stage.request.makes]


def _of_node(stage: Stage) -> list[Path]:
    """Files and folders that the shell lines before a job name, absolute: they may bring what no other machine has."""
    setup = () if stage.place.local else stage.place.request.setup
    return [Path(os.path.normpath(place)) for line in setup for place in _ABSOLUTE.findall(line)]


@contextmanager
def _naming_setup(stage: Stage, each: Named) -> Iterator[None]:
    """What is not there and may be on the stage's node is refused with the way to say so."""
    try:
        yield
    except (SpiderError, ShardsError) as error:
        if stage.place.local or not Path(each.place).is_absolute() or folder_of(each).exists():
            raise
        raise type(error)(f"{error}; if only its node has it, name it in slurm's setup (docs/operations.md)") from None


def _read_before(request: Request) -> Inputs:
    """What a training must read again. The run that it branches from, or its checkpoint, may not be there yet."""
    if not isinstance(request, TrainRequest):
        return {}
    branch = None if request.from_run is None else RunDirectory(Path(split_name(request.from_run)[0]))
    return inputs_before(request.directory, branch)


def made_runs(stages: Sequence[Stage]) -> Mapping[Path, Stage]:
    """The stages that make runs, by the absolute folders of these."""
    return {run: stage for stage in stages if (run := stage.request.made_run) is not None}


def read_by(request: Request, runs: Collection[Path]) -> list[Named]:
    """What it reads, as far as its own words say. `runs`: that stages make."""
    if not isinstance(request, TrainRequest):
        return [Named(field, name, Names(_kind(what, name))) for field, what, name in request.reads()]
    if request.config is None:  # that of the run that goes on
        found = [] if request.data is None else [Named("data.path", str(request.data), Names("images"))]
    else:
        found = named(request.foreseen(runs))
    if request.directory.checkpoint_names():
        return found
    begins = {"from_run": request.from_run, "init": request.init}
    if any(each.key.startswith("init.") for each in found):
        del begins["init"]
    return [*found, *(Named(key, str(place), Names("run")) for key, place in begins.items() if place is not None)]


def _kind(what: Reads, name: str) -> What:
    if what != "images or run":
        return what
    return "run" if names_run(name) else "images"


def folder_of(each: Named) -> Path:
    """What is named, absolute; of RUN@KIMG the run."""
    return Path(split_name(each.place)[0] if each.what == "run" else each.place).absolute()
