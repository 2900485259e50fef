"""What a sweep would do and cost: its trials, what each gets, and one measured for a few steps. Writes nothing."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.world import World
from spider.cost.dry_run import DryRun, dry_run
from spider.runs.directory import RunDirectory
from spider.runs.inputs import find_inputs
from spider.runs.start import prepare
from spider.tables import aligned, duration, size
from sweeps.config import ResourcesConfig, trials_on
from sweeps.neighbor_sources import read_rankings
from sweeps.plan import SweepPlan
from sweeps.space import make_search
from sweeps.trial.config import run_name
from untrusted.counts import counted

_LISTED = 20  # trials on the screen


@dataclass(frozen=True)
class SweepCost:
    """The figures.

    Attributes:
        configurations: how many; at most, where neighbours are still to be picked.
        seeds: of each.
        space: by axis, its values or bounds in words.
        trials: their names, those already over among them; empty where the search finds out as it goes.
        already: trials that are over.
        resources: of each trial.
        at_once: trials at a time on this machine, or as the sweep says.
        one: a trial, measured here.
        free_gb: free space where the sweep's folder is, or will be.
        hours: of all trials that are not over, one after the other.
        notes: what the figures leave open.
    """

    configurations: int
    seeds: int
    space: dict[str, str]
    trials: list[str]
    already: int
    resources: dict[str, Any]
    at_once: int
    one: DryRun
    free_gb: float
    hours: float
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def table(self) -> str:
        """For a person."""
        total = self.configurations * self.seeds
        over = f", {self.already:,} of them over" if self.already else ""
        seeds = f" x {self.seeds} seeds" if self.seeds > 1 else ""
        one, whole, together = (
            duration(hours * 3600) for hours in (self.one.hours, self.hours, self.hours / self.at_once)
        )
        rows = [
            [
                "trials",
                f"{total:,}: {counted(self.configurations, 'configuration')}{seeds}{over}",
            ],
            *([f"  {key}", values] for key, values in self.space.items()),
            ["each gets", self._resources()],
            [
                "one trial",
                f"{self.one.kimg:g} kimg: {one}, measured here on {self.one.device}",
            ],
            ["all of them", f"{whole} of trials; {together} with {self.at_once} at a time"],
            ["disk", f"{size(self.one.disk_gb * total * 2**30)}; {size(self.free_gb * 2**30)} are free"],
        ]
        parts = self.trials[:_LISTED]
        if len(self.trials) > _LISTED:
            parts = [*parts, f"and {len(self.trials) - _LISTED:,} more (--json names them all)"]
        parts = [*parts, *([""] if parts else [])]
        return "\n".join([*parts, aligned(rows), *(f"! {note}" for note in self.notes)])

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
    one = _measured(plan)
    free_gb = shutil.disk_usage(next(each for each in (plan.out, *plan.out.parents) if each.exists())).free / 2**30
    needed_gb = one.disk_gb * search.count * len(plan.sweep.seeds)
    if needed_gb > free_gb:
        notes.append(f"the trials need {size(needed_gb * 2**30)} of disk, and {size(free_gb * 2**30)} are free")
    return SweepCost(
        configurations=search.count,
        seeds=len(plan.sweep.seeds),
        space={axis.key: axis.words() for axis in axes},
        trials=trials,
        already=already,
        resources=plan.sweep.resources.model_dump(),
        at_once=plan.sweep.at_once or _room(plan.sweep.resources),
        one=one,
        free_gb=free_gb,
        hours=one.hours * ((search.count - refused) * len(plan.sweep.seeds) - already),
        notes=notes,
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


def _measured(plan: SweepPlan) -> DryRun:
    """One trial, on as many cores as it will have."""
    resources = plan.sweep.resources
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(resources.cpus / resources.processes)))
    try:
        device = "cpu" if resources.gpus == 0 or not torch.cuda.is_available() else "cuda"
        world = World.single(device if plan.example.compute.device == "auto" else plan.example.compute.device)
        config, _ = find_inputs(plan.example, {}, world)
        return dry_run(prepare(config, RunDirectory(plan.out / "runs" / "none")), world)
    finally:
        torch.set_num_threads(threads)


def _room(resources: ResourcesConfig) -> int:
    """Trials at a time on this machine; one, if it has not even room for that."""
    return max(1, _fitting(resources))


def _fitting(resources: ResourcesConfig) -> int:
    there = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0))
    return trials_on(cores, there, resources.cpus, resources.gpus_where(has_any=there > 0))
