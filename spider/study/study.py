"""`spider study`: see `spider.study.plan`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.lock import alone_in
from cluster.world import World
from spider.errors import SpiderError, SpiderUsageError
from spider.files import write_text
from spider.jobs.inputs import require_there
from spider.jobs.stages import Stage
from spider.study.ended import failure, has_diverged, left
from spider.study.findings import Findings, find, require_any
from spider.study.plan import FILE, VALUES, StudyPlan
from spider.study.report import as_json, lines, write_report
from spider.study.request import StudyRequest
from spider.study.work import Here, OnRay, work
from untrusted.counts import counted, some_of


@dataclass(frozen=True)
class Studied:
    """What came of it.

    Attributes:
        request: what was asked.
        findings: the numbers.
        files: written, the page first.
        failed: a line for each stage that failed, or was left out because of one.
    """

    request: StudyRequest
    findings: Findings
    files: list[Path]
    failed: list[str]

    def text(self) -> str:
        """For a terminal."""
        return "\n".join([lines(self.findings), f"look at {self.files[0]}"])

    def as_json(self) -> dict[str, Any]:
        """Plain data: what is in study.json."""
        return as_json(self.request, self.findings)

    def failure(self) -> SpiderError | None:
        """What to raise, the page written all the same; None: nothing failed."""
        if not self.failed:
            return None
        others = [line.partition(": ")[0] for line in self.failed[1:]]
        more = f"; {counted(len(others), 'more stage')} failed or had to wait: {some_of(others, 6)}" if others else ""
        return SpiderError(f"{self.failed[0]}{more}; the same command goes on with what is left")


def study(request: StudyRequest, plan: StudyPlan) -> Studied:
    """Do what is left of a study, or with `report` nothing, and write the page.

    Raises:
        SpiderUsageError: a run has other settings than the study; data that a stage reads is not there; a stage's job
            waits or runs.
        SpiderError, ClusterError: a file is damaged; the Ray cluster is not there, or has no room.
    """
    if request.report:
        if request.only:
            raise SpiderUsageError("only: not together with report: the page tells of all that is there")
        return _reported(request, plan, [])
    with alone_in(plan.out, World.single()):
        _require_doable(plan)  # before the file of the study is replaced
        keep(plan)
        if request.ray is None:
            failed = work(plan, Here(request.at_once), progress=request.progress)
        else:
            from cluster.ray import connected

            with connected(request.ray) as cluster:
                workers = OnRay(cluster, request.at_once, request.cpus, request.gpus)
                failed = work(plan, workers, progress=request.progress)
        return _reported(request, plan, failed)


def keep(plan: StudyPlan) -> None:
    """Write the file and its values into the study's folder, where a person finds them. A study may grow."""
    plan.out.mkdir(parents=True, exist_ok=True)
    write_text(plan.out / FILE, plan.text)
    write_text(plan.out / VALUES, json.dumps(plan.values, indent=2) + "\n")


def to_submit(plan: StudyPlan) -> tuple[list[Stage], list[str]]:
    """What is left, for a queue; and a line for what is left out, because its training diverged.

    Raises SpiderUsageError: a run has other settings than the study; data that a stage reads is not there.
    """
    lost: dict[str, str] = {}
    todo = []
    for stage in _require_doable(plan):
        if has_diverged(stage):
            lost[stage.name] = failure(stage) or ""
        elif before := [name for name in stage.after if name in lost]:
            lost[stage.name] = f"left out: {before[0]} comes before it"
        else:
            todo.append(stage)
    return todo, [f"{name}: {why}" for name, why in lost.items()]


def _require_doable(plan: StudyPlan) -> list[Stage]:
    """What is left. Refuses runs of other keys, and what is read and not there."""
    todo = left(plan.stages, plan.wanted)
    require_there(plan.stages, todo, plan.out, plan.places.__getitem__)
    return todo


def _reported(request: StudyRequest, plan: StudyPlan, failed: list[str]) -> Studied:
    findings = find(plan)
    require_any(findings)
    return Studied(request, findings, write_report(request, findings), failed)
