"""A sweep: many ordinary runs that differ in a few keys, on Ray, and what came of them.

    OUT/sweep.yaml             what it is, every default written out
        base.yaml              what every trial begins with: the preset or file, as it was
        neighbors/             the neighbour search, if the sources come from one
        configurations/*.json  which points of the space there are, and how their trials ended
        runs/NAME/             the trials, each a run that can be resumed, measured and looked at alone
        logs/NAME.txt          what the trainings printed
        tune/                  Ray's own files of the latest start; nothing reads them
        sweep.json, sweep.csv  what came of it
        parallel.png           every configuration as a line through its values, to the metric
        outcome.png            the neighbours' distances beside what trainings on them came to

The same command goes on where a killed sweep was, and adds nothing to a finished one but the report. A run is a
function of its configuration, so that a sweep by grid or draw ends the same however often it was killed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cluster.lock import alone_in
from cluster.world import World
from sweeps.ledger import Ledger
from sweeps.neighbor_sources import search_neighbors
from sweeps.plan import SweepPlan
from sweeps.report import SweepReport, make_report
from sweeps.space import Axis


def sweep(file: str | Path, out: str | Path, *, ray: str = "local", progress: bool = False) -> SweepReport:
    """Run a sweep, or go on with the one in `out`.

    Args:
        file: SWEEP.yaml, see `sweeps.config`.
        out: the folder, on storage that every machine of the cluster sees.
        ray: `local`, or the address of a cluster (see `cluster.ray.connected`). A neighbour search is made on it as
            well; with `local`, in this process.
        progress: show a bar, on stderr.

    Returns:
        What came of it; not `is_complete` if a signal ended it, its trainings saved.

    Raises:
        SpiderUsageError: a key or value that cannot be, found before anything runs; another sweep's folder.
        SpiderError, ShardsError, ClusterError: what failed.
    """
    plan = SweepPlan(file, out)
    with alone_in(plan.out, World.single()):
        plan.write()
        rankings = []
        if plan.neighbors is not None:
            folder, target = plan.out / "neighbors", plan.example.data.path
            cluster = None if ray == "local" else ray
            rankings = search_neighbors(plan.neighbors, target, folder, ray=cluster, progress=progress)
        axes = plan.axes(rankings)
        ledger = plan.ledger(axes)
        if not ledger.is_complete:
            _run(plan, axes, ledger, ray, progress)
        report = make_report(plan, axes, ledger, rankings)
        report.write(plan.out)
        return report


def _run(plan: SweepPlan, axes: list[Axis], ledger: Ledger, address: str, progress: bool) -> None:
    """The part that takes long, and Ray."""
    from cluster.ray import connected
    from sweeps.progress import Progress

    with connected(address) as cluster:  # before Ray is imported, as what it reads then is set there
        from sweeps.ray_tune import run_trials

        gpus = plan.sweep.resources.gpus_where(has_any=cluster.gpus > 0)
        shown = Progress(ledger, len(plan.sweep.seeds), progress)
        try:
            run_trials(plan.sweep, ledger, cluster, partial(plan.trial_spec, axes, gpus), shown)
        finally:
            shown.close()
