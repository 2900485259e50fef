"""What the stages of a study read: that it is there before anything begins, and still what it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from shards.errors import ShardsError
from spider.errors import SpiderError, SpiderUsageError
from spider.jobs.stages import Stage
from spider.request import Request
from spider.runs.directory import split_name
from spider.runs.inputs import at_key, recorded, require_found, run_read_now
from spider.runs.request import TrainRequest
from spider.settings.marks import Named, Names, named
from spider.study.plan import StudyPlan


def require_there(plan: StudyPlan, todo: Sequence[Stage]) -> None:
    """Refuse what stages read and no stage makes, if it is not there. Whatever is in the study's folder stages make.

    Args:
        todo: the stages that will be done. What the others have read may be gone.

    Raises:
        SpiderUsageError: where in the file, the key, and what is not there.
    """
    runs = _made_runs(plan)
    outs = [Path(str(out)).absolute() for stage in plan.stages if (out := stage.request.values().get("out"))]
    for stage in todo:
        for each in _read_by(stage.request, runs):
            if not any(_folder(each).is_relative_to(above) for above in (plan.out, *runs, *outs)):
                try:
                    with at_key(each.key):
                        require_found(each, None)
                except (SpiderError, ShardsError) as error:
                    raise SpiderUsageError(f"{plan.places[stage.name]}: {error}") from None


def fed_by_others(plan: StudyPlan) -> Iterator[str]:
    """A line for each run of a stage that a training has read, and that has gone on or was made anew since."""
    runs = _made_runs(plan)
    for stage in plan.stages:
        request = stage.request
        if not (stage.after and isinstance(request, TrainRequest) and request.directory.exists):
            continue
        known = recorded(request.directory)
        for each in _read_by(request, runs):
            if each.what != "run" or _folder(each) not in runs or each.key not in known:
                continue
            if (now := run_read_now(each.key, each.place, known[each.key])) is not None:
                before, after = (split_name(read.path)[1] for read in (known[each.key], now))
                change = f"is at {after} kimg now" if after != before else "was made anew since"
                yield (
                    f"{stage.name} learned from {runs[_folder(each)].name} at {before} kimg, which {change}; without "
                    f"{request.run} it is trained again"
                )


def _made_runs(plan: StudyPlan) -> Mapping[Path, Stage]:
    """The stages that make runs, by the absolute folders of these."""
    return {run: stage for stage in plan.stages if (run := stage.request.made_run) is not None}


def _read_by(request: Request, runs: Collection[Path]) -> list[Named]:
    """What it reads, as far as its own words say. `runs`: that stages make."""
    if isinstance(request, TrainRequest):
        return [] if request.config is None else named(request.foreseen(runs))
    found = []
    for name, what in request.places.items():
        value = getattr(request, name)
        several = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
        )
        found += [Named(name, str(each), Names(what)) for each in several if each is not None]
    return found


def _folder(each: Named) -> Path:
    return Path(split_name(each.place)[0] if each.what == "run" else each.place).absolute()
