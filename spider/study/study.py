"""`spider study`: see `spider.study.plan`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.lock import alone_in
from cluster.world import World
from spider.config.load import read_mapping
from spider.errors import SpiderError, SpiderUsageError
from spider.files import write_text
from spider.jobs.stages import Stage
from spider.study.ended import is_done, is_hopeless
from spider.study.findings import Findings, find, require_any
from spider.study.plan import StudyPlan
from spider.study.report import as_json, lines, write_report
from spider.study.request import StudyRequest
from spider.study.work import Here, OnRay, work

FILE, VALUES = "study.yaml", "values.json"


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
        more = f"; {len(self.failed) - 1} more" if len(self.failed) > 1 else ""
        return SpiderError(f"{self.failed[0]}{more}; the same command goes on with what is left")


def study(request: StudyRequest, plan: StudyPlan) -> Studied:
    """Do what is left of a study, or with `report` nothing, and write the page.

    Raises:
        SpiderUsageError: the folder holds another study.
        SpiderError, ClusterError: a file is damaged; the Ray cluster is not there.
    """
    if request.report:
        return _reported(request, plan, [])
    with alone_in(plan.out, World.single()):
        keep(plan)
        if request.ray is None:
            failed = work(plan.stages, plan.out, Here(request.at_once), progress=request.progress)
        else:
            from cluster.ray import connected

            with connected(request.ray) as cluster:
                hands = OnRay(cluster, request.at_once, request.gpus)
                failed = work(plan.stages, plan.out, hands, progress=request.progress)
        return _reported(request, plan, failed)


def keep(plan: StudyPlan) -> None:
    """Write the file and its values into the study's folder, where a person finds them. A study may grow.

    Raises SpiderUsageError: the folder holds one with another title.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    file = plan.out / FILE
    if file.exists():
        title = read_mapping(file).get("title")
        if title != plan.config.title:
            raise SpiderUsageError(f"out: {plan.out} holds another study, {title!r}; choose another folder")
    write_text(file, plan.text)
    write_text(plan.out / VALUES, json.dumps(plan.values, indent=2) + "\n")


def left(plan: StudyPlan) -> list[Stage]:
    """The stages that are not done, and would not fail again."""
    return [stage for stage in plan.stages if not is_done(stage) and not is_hopeless(stage)]


def _reported(request: StudyRequest, plan: StudyPlan, failed: list[str]) -> Studied:
    findings = find(plan)
    require_any(findings)
    return Studied(request, findings, write_report(request, findings), failed)
