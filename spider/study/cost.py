"""What the rest of a study would take: a training of each variant, and of each stage before, measured.

What a measurement takes follows, by the number of images, from the evaluations of these trainings under its embedding.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cluster.errors import ClusterError
from shards.errors import ShardsError
from spider.cost.dry_run import DryRun
from spider.cost.many import ManyCost, free_gb, length_of, measured
from spider.errors import SpiderError
from spider.jobs.stages import Stage
from spider.judge.request import DEFAULT_COUNT, DEFAULT_SEEDS, EvaluateRequest
from spider.runs.request import TrainRequest
from spider.study.plan import StudyPlan
from spider.tables import duration, entries
from untrusted.counts import counted
from untrusted.terminal import tell


@dataclass(frozen=True)
class Measurements:
    """Measurements of checkpoints that are left.

    Attributes:
        count: how many.
        images: samples that they look at, under all their evaluation seeds.
        hours: what they take, one after the other; None: no training evaluates itself under their embedding.
    """

    count: int
    images: int
    hours: float | None

    def __str__(self) -> str:
        each = " each" if self.count > 1 else ""
        took = "" if self.hours is None else f": about {duration(self.hours * 3600 / self.count)}{each}"
        return f"{self.count} x {counted(self.images // self.count, 'image')}{took}"


@dataclass(frozen=True)
class StudyCost(ManyCost):
    """The figures.

    Attributes:
        left: trainings that are left, by where they stand in the file: `variants.ada`.
        measured: one of each; those that cannot be measured yet are missing.
        measurements: of checkpoints, that are left, by their embedding.
        notes: what the figures leave open.
    """

    left: dict[str, int]
    measured: dict[str, DryRun]
    measurements: dict[str, Measurements]
    notes: list[str]

    def table(self) -> str:
        """For a person."""
        rows = [
            ["trainings left", f"{sum(self.left.values()):,}"],
            *([f"  {name}", f"{count} x {self._one(name)}"] for name, count in self.left.items()),
            ["measurements left", f"{sum(each.count for each in self.measurements.values()):,}"],
            *([f"  by {name}", str(each)] for name, each in self.measurements.items()),
            *([["all of them", self._whole()], self.disk_row()] if self.measured else []),
        ]
        return "\n".join([entries(rows), *(f"! {note}" for note in self.notes)])

    def _one(self, name: str) -> str:
        return length_of(self.measured[name], self.left[name]) if name in self.measured else "not measured"

    def _whole(self) -> str:
        known = sum(each.hours for each in self.measurements.values() if each.hours is not None)
        unknown = [
            f"{counted(each.count, 'measurement')} by {name}"
            for name, each in self.measurements.items()
            if each.hours is None
        ]
        measuring = f" and about {duration(known * 3600)} of measurements" if known else ""
        without = f", without {' and '.join(unknown)}" if unknown else ""
        whole = f"{duration(self.hours * 3600)} of trainings{measuring}"
        return f"{whole}; {self.together(self.hours + known)}{without}"


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
    rates: dict[str, list[float]] = {}
    threads = len(os.sched_getaffinity(0)) // at_once
    for name, (first, *_) in kinds.items():
        tell(f"{name}: measuring one of {counted(len(kinds[name]), 'training')}")
        try:
            config = first.checked()
            found[name] = measured(config, first.directory.path, threads=threads)
        except (SpiderError, ShardsError, ClusterError) as error:
            errors[name] = error
            continue
        if (each := found[name].evaluation) is not None:
            rates.setdefault(config.evaluate.embedding, []).append(each.sec_per_evaluation / each.images)
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
    notes.append(
        "runs that have begun are counted whole, and a best checkpoint that is the last one twice; "
        "what packs and searches, and the start of each stage, comes on top"
    )
    return StudyCost(
        **vars(many),
        left=left,
        measured=found,
        measurements=_measurements(todo, rates),
        notes=[*notes, *many.shortage("trainings")],
    )


def _measurements(todo: Sequence[Stage], rates: Mapping[str, Sequence[float]]) -> dict[str, Measurements]:
    """Those that are left, by embedding. `rates`: seconds for an image, of the trainings that were measured."""
    counts, images = Counter[str](), Counter[str]()
    for stage in todo:
        if isinstance(request := stage.request, EvaluateRequest):
            name = request.embedding_name if request.compares else "generator"
            counts[name] += 1
            images[name] += (request.count or DEFAULT_COUNT) * len(request.seed_list(DEFAULT_SEEDS))
    return {
        name: Measurements(count, images[name], images[name] * fmean(rates[name]) / 3600 if name in rates else None)
        for name, count in counts.items()
    }


def _sum(one: Mapping[str, float], left: Mapping[str, int]) -> float:
    """Of all that are left, from one of each; the mean stands for those that were not measured."""
    mean = fmean(one.values()) if one else 0.0
    return sum(count * one.get(name, mean) for name, count in left.items())
