"""What the rest of a study would take: a training of each variant, and of each stage before, measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cluster.errors import ClusterError
from shards.errors import ShardsError
from spider.cost.dry_run import DryRun
from spider.cost.many import ManyCost, free_gb, length_of, measured
from spider.errors import SpiderError
from spider.jobs.stages import Stage
from spider.runs.request import TrainRequest
from spider.study.plan import StudyPlan
from spider.tables import aligned
from untrusted.counts import counted
from untrusted.terminal import tell


@dataclass(frozen=True)
class StudyCost(ManyCost):
    """The figures.

    Attributes:
        left: trainings that are left, by where they stand in the file: `variants.ada`.
        measured: one of each; those that cannot be measured yet are missing.
        notes: what the figures leave open.
    """

    left: dict[str, int]
    measured: dict[str, DryRun]
    notes: list[str]

    def table(self) -> str:
        """For a person."""
        rows = [
            ["trainings left", f"{sum(self.left.values()):,}"],
            *([f"  {name}", f"{count} x {self._one(name)}"] for name, count in self.left.items()),
            *(self.rows("trainings") if self.measured else []),
        ]
        return "\n".join([aligned(rows), *(f"! {note}" for note in self.notes)])

    def _one(self, name: str) -> str:
        return length_of(self.measured[name]) if name in self.measured else "not measured"


def study_cost(plan: StudyPlan, todo: Sequence[Stage], *, at_once: int) -> StudyCost:
    """Measure one training of each kind that is left, and count the rest.

    Args:
        todo: the stages that are left.
        at_once: how many will be worked on at a time.
    """
    kinds: dict[str, list[TrainRequest]] = {}
    for stage in todo:
        if isinstance(stage.request, TrainRequest):
            kinds.setdefault(plan.places[stage.name], []).append(stage.request)
    found, errors = dict[str, DryRun](), dict[str, Exception]()
    threads = len(os.sched_getaffinity(0)) // at_once
    for name, (first, *_) in kinds.items():
        tell(f"{name}: measuring one of {counted(len(kinds[name]), 'training')}")
        try:
            found[name] = measured(first.checked(), first.directory.path, threads=threads)
        except (SpiderError, ShardsError, ClusterError) as error:
            errors[name] = error
    notes = [f"{name}: not measured, the mean of the others stands for it: {why}" for name, why in errors.items()]
    if errors and not found:
        why = next(iter(errors.values()))
        notes = [f"nothing was measured: {why}. The stages that pack come first, as above; then ask again"]
    left = {name: len(requests) for name, requests in kinds.items()}
    many = ManyCost(
        at_once=at_once,
        hours=_sum({name: each.hours for name, each in found.items()}, left),
        disk_gb=_sum({name: each.disk_gb for name, each in found.items()}, left),
        free_gb=free_gb(plan.out),
    )
    notes.append("runs that have begun are counted whole; what packs, searches and measures comes on top")
    return StudyCost(**vars(many), left=left, measured=found, notes=[*notes, *many.shortage("trainings")])


def _sum(one: Mapping[str, float], left: Mapping[str, int]) -> float:
    """Of all that are left, from one of each; the mean stands for those that were not measured."""
    mean = fmean(one.values()) if one else 0.0
    return sum(count * one.get(name, mean) for name, count in left.items())
