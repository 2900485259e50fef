"""What stages read: that it is there before any begins, or that a stage makes it. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from shards.errors import ShardsError
from spider.errors import SpiderError, SpiderUsageError
from spider.jobs.stages import Stage
from spider.request import Reads, Request
from spider.runs.compose import inputs_before
from spider.runs.directory import names_run, split_name
from spider.runs.inputs import at_key, require_found
from spider.runs.request import TrainRequest
from spider.settings.marks import Named, Names, What, named


def require_there(
    stages: Sequence[Stage], todo: Sequence[Stage], folder: Path, called: Callable[[str], str] = "stage {}".format
) -> None:
    """Refuse what stages read and no stage makes, if it is not there. Whatever is in their folder stages make.

    Args:
        stages: all of them.
        todo: those that will be done. What the others have read may be gone.
        folder: theirs, absolute.
        called: by a stage's name, what the error begins with.

    Raises:
        SpiderUsageError: the stage, the key, and what is not there.
    """
    runs = made_runs(stages)
    made = [folder, *runs, *(place for stage in stages for place in stage.request.makes)]
    for stage in todo:
        request = stage.request
        known = inputs_before(request.directory, None) if isinstance(request, TrainRequest) else {}
        for each in read_by(request, runs):
            if any(folder_of(each).is_relative_to(above) for above in made):
                continue
            try:
                with at_key(each.key):
                    require_found(each, known.get(each.key))
            except (SpiderError, ShardsError) as error:
                raise SpiderUsageError(f"{called(stage.name)}: {error}") from None


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
