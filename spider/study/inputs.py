"""Whether what the trainings of a study have read of its own runs is still what it was."""

from __future__ import annotations

from collections.abc import Iterator

from spider.jobs.inputs import folder_of, made_runs, read_by
from spider.runs.directory import split_name
from spider.runs.inputs import recorded, run_read_now
from spider.runs.request import TrainRequest
from spider.study.plan import StudyPlan


def fed_by_others(plan: StudyPlan) -> Iterator[str]:
    """A line for each run of a stage that a training has read, and that has gone on or was made anew since."""
    runs = made_runs(plan.stages)
    for stage in plan.stages:
        request = stage.request
        if not (stage.after and isinstance(request, TrainRequest) and request.directory.exists):
            continue
        known = recorded(request.directory)
        for each in read_by(request, runs):
            if each.what != "run" or folder_of(each) not in runs or each.key not in known:
                continue
            if (now := run_read_now(each.key, each.place, known[each.key])) is not None:
                before, after = (split_name(read.path)[1] for read in (known[each.key], now))
                change = f"is at {after} kimg now" if after != before else "was made anew since"
                yield (
                    f"{stage.name} learned from {runs[folder_of(each)].name} at {before} kimg, which {change}; without "
                    f"{request.run} it is trained again"
                )
