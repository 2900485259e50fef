"""What a sweep would do and cost: its trials, what each gets, and one measured for a few steps. Writes nothing."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from spider.cost.dry_run import DryRun
from spider.cost.many import ManyCost, free_gb, length_of, measured
from spider.tables import entries
from sweeps.config import ResourcesConfig, trials_on
from sweeps.neighbor_sources import read_rankings
from sweeps.plan import SweepPlan
from sweeps.space import make_search
from sweeps.trial.config import run_name
from untrusted.counts import counted

_LISTED = 20  # trials on the screen


@dataclass(frozen=True)
class SweepCost(ManyCost):
    """The figures.

    Attributes:
        configurations: how many; at most, where neighbours are still to be picked.
        seeds: of each.
        space: by axis, its values or bounds in words.
        trials: their names, those already over among them; empty where the search finds out as it goes.
        already: trials that are over.
        resources: of each trial.
        one: a trial, measured here.
        notes: what the figures leave open.
    """

    configurations: int
    seeds: int
    space: dict[str, str]
    trials: list[str]
    already: int
    resources: dict[str, Any]
    one: DryRun
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def table(self) -> str:
        """For a person."""
        total = self.configurations * self.seeds
        over = f", {self.already:,} of them over" if self.already else ""
        seeds = f" x {self.seeds} seeds" if self.seeds > 1 else ""
        rows = [
            [
                "trials",
                f"{total:,}: {counted(self.configurations, 'configuration')}{seeds}{over}",
            ],
            *([f"  {key}", values] for key, values in self.space.items()),
            ["each gets", self._resources()],
            ["one trial", length_of(self.one)],
            *self.rows("trials"),
        ]
        parts = self.trials[:_LISTED]
        if len(self.trials) > _LISTED:
            parts = [*parts, f"and {len(self.trials) - _LISTED:,} more (--json names them all)"]
        parts = [*parts, *([""] if parts else [])]
        return "\n".join([*parts, entries(rows), *(f"! {note}" for note in self.notes)])

    def _resources(self) -> str:
        cpus, gpus, processes = (self.resources[key] for key in ("cpus", "gpus", "processes"))
        shared = "a GPU for each process if there is one" if gpus is None else counted(gpus, "GPU")
        return f"{counted(cpus, 'CPU')}, {shared}; {counted(processes, 'process', 'processes')}"


def sweep_cost(file: str | Path, out: str | Path) -> SweepCost:
    """Measure one trial of the sweep on this machine, and count the rest.

    Raises:
        SpiderUsageError: a key or value that cannot be; another sweep's folder.
        SpiderError, ShardsError: what is missing.
    """
    plan = SweepPlan(file, out)
    rankings = None if plan.neighbors is None else read_rankings(plan.neighbors, plan.out / "neighbors")
    axes = plan.axes(rankings)
    ledger = plan.ledger(axes)
    notes = _notes(plan, open_axis=plan.neighbors is not None and rankings is None)
    search = make_search(plan.sweep, axes, plan.measure.better)
    trials = []
    if plan.sweep.search.kind != "optuna" and not (plan.neighbors is not None and rankings is None):
        points = [search.point(number, ()) for number in range(search.count)]
        trials = [run_name(n, axes, point, seed) for n, point in enumerate(points) for seed in plan.sweep.seeds]
    already = sum(trial.is_over for trial in ledger.trials)
    refused = sum(each.refused is not None for each in ledger.configurations)
    resources = plan.sweep.resources
    threads = int(resources.cpus / resources.processes)
    one = measured(plan.example, plan.out / "runs" / "none", threads=threads, gpus=resources.gpus != 0)
    many = ManyCost(
        at_once=plan.sweep.at_once or _room(resources),
        hours=one.hours * ((search.count - refused) * len(plan.sweep.seeds) - already),
        disk_gb=one.disk_gb * search.count * len(plan.sweep.seeds),
        free_gb=free_gb(plan.out),
    )
    return SweepCost(
        **vars(many),
        configurations=search.count,
        seeds=len(plan.sweep.seeds),
        space={axis.key: axis.words() for axis in axes},
        trials=trials,
        already=already,
        resources=resources.model_dump(),
        one=one,
        notes=[*notes, *many.shortage("trials")],
    )


def _notes(plan: SweepPlan, *, open_axis: bool) -> list[str]:
    notes = []
    if open_axis:
        assert plan.neighbors is not None
        notes.append(
            f"the neighbours are not searched yet: all {len(plan.neighbors.sources)} sources will be trained on"
            if plan.neighbors.picks == "all"
            else f"the neighbours are not searched yet: of {len(plan.neighbors.sources)} sources at most "
            f"{plan.neighbors.picks} for each of {len(plan.neighbors.orders)} orders will be trained on"
        )
    if plan.sweep.scheduler.kind == "asha":
        notes.append("asha stops trials early: this is the most that they can take")
    if plan.sweep.resources.processes > 1:
        notes.append(f"measured with one process, not {plan.sweep.resources.processes}")
    notes.append(
        "the first configuration was measured, and stands for all; the seconds in which each starts come on top"
    )
    cpus, gpus = plan.sweep.resources.cpus, plan.sweep.resources.gpus or 0
    if _fitting(plan.sweep.resources) == 0:
        notes.append(f"this machine has no room for a trial with cpus={cpus:g} and gpus={gpus:g}")
    return notes


def _room(resources: ResourcesConfig) -> int:
    """Trials at a time on this machine; one, if it has not even room for that."""
    return max(1, _fitting(resources))


def _fitting(resources: ResourcesConfig) -> int:
    there = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0))
    return trials_on(cores, there, resources.cpus, resources.gpus_where(has_any=there > 0))
