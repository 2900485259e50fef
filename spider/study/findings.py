"""What came of a study: every run's numbers from its own files, and the variants held against the baseline.

Differences are paired: a variant and the baseline under the same training seed. Their spread, and that of the values,
is the sample standard deviation over training seeds. The spread over evaluation seeds is within one run, and apart.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from cluster.lock import is_taken
from spider.config.load import flatten
from spider.errors import SpiderError
from spider.judge.compare import Curve
from spider.judge.metrics.registry import METRICS
from spider.judge.metrics.results import MetricResult, read_results
from spider.judge.seeds import Spread
from spider.packing import PackRequest
from spider.runs.directory import RunDirectory
from spider.runs.listing import summarise
from spider.runs.records import StartRecord
from spider.runs.request import TrainRequest
from spider.study.ended import can_be_checked, failure, has_diverged, is_done, provenance, seconds
from spider.study.inputs import fed_by_others
from spider.study.plan import StudyPlan, StudyRun
from spider.tables import setting


@dataclass(frozen=True)
class Measured:
    """A checkpoint's numbers.

    Attributes:
        files: they are from, one for each embedding.
        kimg: of the checkpoint.
        values: by label, one for each evaluation seed.
        page: the memorisation page; None: there is none.
        classes: that its samples were of, or that they were of all alike; empty: of all as learnt, or there are none.
    """

    files: list[Path]
    kimg: float
    values: dict[str, list[float]]
    page: Path | None
    classes: list[str]


@dataclass(frozen=True)
class RunFindings:
    """One run.

    Attributes:
        run: which.
        state: `finished`, `not begun`, `under way, at N kimg`, `stopped at N kimg`, `diverged` or `failed`.
        is_over: whether it trained to its end.
        is_under_way: whether a process trains it now, as far as that shows.
        failure: what ended it, in a line; None: nothing did.
        curve: of the metric that decides, from the run's own evaluations.
        curve_label: what they call it; the embedding may be another one than the study's.
        curve_ways: how they measured it: their protocols and references, seeds apart.
        hours: a clock of the training alone: (kimg, device-hours until then), without evaluations and saves.
        before_hours: of the stages that come before it: of trainings likewise, of others from their begin to their end;
            None: nobody noted how long one of them took.
        devices: how many worked on it, and what they are: `1 x cpu (x86_64)`.
        measured: by checkpoint, `last` and `best`.
        config: flat, key by key; None: the run has none yet.
        digest: of the images that it learns.
    """

    run: StudyRun
    state: str
    is_over: bool
    is_under_way: bool
    failure: str | None
    curve: Curve
    curve_label: str
    curve_ways: frozenset[str]
    hours: Curve
    before_hours: float | None
    devices: str
    measured: dict[str, Measured]
    config: dict[str, Any] | None
    digest: str

    def mean(self, checkpoint: str, label: str) -> float | None:
        """Over the evaluation seeds."""
        values = self.measured[checkpoint].values.get(label, []) if checkpoint in self.measured else []
        return fmean(values) if values else None

    def reaches(self, target: float, lower_is_better: bool) -> tuple[float, float | None] | None:
        """The first kimg at which the curve is as good as a value, and the hours until then with what came before."""
        for kimg, value in self.curve:
            if value <= target if lower_is_better else value >= target:
                return kimg, None if self.before_hours is None else self.before_hours + _at(self.hours, kimg)
        return None


@dataclass(frozen=True)
class Findings:
    """All of it.

    Attributes:
        plan: what was asked.
        runs: in its order.
        labels: of what was measured, and of which metric each is; those of one embedding after those of another.
        deciding: the label of the metric that decides; None: it was not measured yet.
        curve_label: what the runs' own evaluations call the metric that decides; empty: there are none.
        warnings: what a reader must know.
    """

    plan: StudyPlan
    runs: list[RunFindings]
    labels: dict[str, str]
    deciding: str | None
    curve_label: str
    warnings: list[str] = field(default_factory=list)

    @property
    def lower_is_better(self) -> bool:
        """Of the metric that decides."""
        return better(self.plan.metrics[0][0]) != "higher"

    def of(self, variant: str) -> list[RunFindings]:
        """The runs of a variant."""
        return [each for each in self.runs if each.run.variant == variant]

    def spread(self, variant: str, checkpoint: str, label: str) -> Spread:
        """A number over the training seeds."""
        found = {each.run.seed: each.mean(checkpoint, label) for each in self.of(variant)}
        return Spread({seed: value for seed, value in found.items() if value is not None})

    def apart(self, variant: str, checkpoint: str, label: str) -> Spread:
        """The paired differences of a variant to its baseline."""
        baseline = self.plan.baseline_of(variant)
        return self.spread(variant, checkpoint, label).minus(self.spread(baseline, checkpoint, label))

    def to_baselines_best(self, variant: str) -> dict[int, tuple[float, float | None] | None]:
        """By seed, the kimg and hours at which a variant is as good as its baseline ever is; None: it never is.

        Only seeds under which the baseline has finished, both were evaluated while they trained, and the variant has
        got there or will train no further.
        """
        baseline = {each.run.seed: each for each in self.of(self.plan.baseline_of(variant))}
        best = min if self.lower_is_better else max
        found = {
            each.run.seed: each.reaches(best(value for _, value in against.curve), self.lower_is_better)
            for each in self.of(variant)
            if each.curve and (against := baseline[each.run.seed]).curve and against.is_over
        }
        ended = {each.run.seed for each in self.of(variant) if each.is_over or each.failure is not None}
        return {seed: reached for seed, reached in found.items() if reached is not None or seed in ended}


def better(metric: str) -> Literal["lower", "higher"] | None:
    """Which values of a metric are better; None: neither, or it is not of images."""
    found = METRICS.get(metric)
    return None if found is None else found.better


def find(plan: StudyPlan) -> Findings:
    """Read what is there. Raises SpiderError: a file is damaged."""
    over = {run.name: is_done(run.train) and not is_taken(_directory(run).path) for run in plan.runs}
    stale: list[str] = []
    results = {
        run.name: {which: _results(run, which, stale) if over[run.name] else {} for which in run.measures}
        for run in plan.runs
    }
    names = {(number, each.name): each.label for found in results.values() for number, each in _numbered(found)}
    asked = [(number, name) for number, metrics in enumerate(plan.metrics) for name in metrics]
    labels = {names[each]: each[1] for each in asked if each in names}
    runs = [_find(run, results[run.name], plan.metrics[0][0], is_over=over[run.name]) for run in plan.runs]
    drawn = {each.curve_label for each in runs if each.curve}
    warnings = [*_warnings(runs, results), *stale, *_unchecked(plan, results), *fed_by_others(plan)]
    if len(drawn) > 1:
        warnings.append(f"the runs evaluated themselves by different measures: {', '.join(sorted(drawn))}")
    return Findings(plan, runs, labels, names.get(asked[0]), min(drawn, default=""), warnings)


_Results = dict[Path, list[MetricResult]]  # of a checkpoint, by file, in the order of what the study measures


def _results(run: StudyRun, which: str, stale: list[str]) -> _Results:
    found: _Results = {}
    for stage in run.measures[which]:
        file = Path(stage.request.values()["out"])
        found[file] = []
        if file.exists() and is_done(stage):
            found[file] = read_results(file)
        elif file.exists():
            stale.append(
                f"{file.name} is of another checkpoint, or another question, and left out until it is made again"
            )
    return found


def _unchecked(plan: StudyPlan, results: dict[str, dict[str, _Results]]) -> list[str]:
    """Of which variants numbers are taken as their files have them, in a sentence; empty: of none."""
    names = [
        run.variant
        for run in plan.runs
        for which, stages in run.measures.items()
        if any(results[run.name][which].values()) and not all(can_be_checked(stage) for stage in stages)
    ]
    told = ", ".join(dict.fromkeys(names))
    return [f"the numbers of {told} are not checked: the checkpoints that they are of lie elsewhere"] if told else []


def _numbered(results: dict[str, _Results]) -> Iterator[tuple[int, MetricResult]]:
    """The results of a run, and which of the study's measurements each is of."""
    for of_checkpoint in results.values():
        for number, of_file in enumerate(of_checkpoint.values()):
            yield from ((number, each) for each in of_file)


def _find(run: StudyRun, results: dict[str, _Results], metric: str, *, is_over: bool) -> RunFindings:
    directory = _directory(run)
    rows, starts = (directory.rows().rows, directory.starts()) if directory.exists else ([], [])
    is_under_way = not is_over and summarise(directory, directory.path).state.startswith("running")
    ended = None if is_over or is_under_way else failure(run.train)
    kimg = rows[-1]["kimg"] if rows else 0
    if is_over:
        state = "finished"
    elif is_under_way:
        state = f"under way, at {kimg:g} kimg"
    elif ended is not None:
        state = "diverged" if has_diverged(run.train) else "failed"
    else:
        state = f"stopped at {kimg:g} kimg" if rows else "not begun"
    label, curve, ways = _curve(directory, metric)
    start: Mapping[str, Any] = starts[-1] if starts else {}
    ranks, device = start.get("world_size", 1), start.get("device")
    return RunFindings(
        run,
        state,
        is_over,
        is_under_way,
        ended,
        curve=curve,
        curve_label=label,
        curve_ways=ways,
        hours=_hours(rows, starts),
        before_hours=_before(run),
        devices=f"{ranks} x {device}" if device else "",
        measured={which: _measured(found) for which, found in results.items() if any(found.values())},
        config=flatten(directory.config()) if directory.exists else None,
        digest=str(start.get("data", {}).get("fingerprint", "")),
    )


def _directory(run: StudyRun) -> RunDirectory:
    request = run.train.request
    assert isinstance(request, TrainRequest)
    return request.directory


def _curve(directory: RunDirectory, metric: str) -> tuple[str, Curve, frozenset[str]]:
    label, found, ways = "", Curve(), set[str]()
    for images, file in directory.evaluation_files().items() if directory.exists else ():
        for each in read_results(file):
            if each.name == metric and each.value is not None:
                label = each.label
                ways.add(repr(sorted(each.way().items())))
                found.append((images / 1000, each.value))
    return label, found, frozenset(ways)


def _before(run: StudyRun) -> float | None:
    """Hours of the stages that it waits for."""
    total = 0.0
    for stage in run.before:
        if isinstance(stage.request, TrainRequest):
            directory = stage.request.directory
            if not directory.exists:
                return None
            total += _at(_hours(directory.rows().rows, directory.starts()), float("inf"))
        elif (took := seconds(stage)) is not None:
            total += took / 3600
        elif not isinstance(stage.request, PackRequest):  # packing is part of any training
            return None
    return total


def _hours(rows: Sequence[dict[str, Any]], starts: Sequence[StartRecord]) -> Curve:
    """Each row's time on the devices of the start that wrote it. Rows that were taken back are not counted."""
    begins = [(each.get("from_images", 0) / 1000, each.get("world_size", 1)) for each in starts]
    before, total, found = begins[0][0] if begins else 0.0, 0.0, Curve()
    for row in rows:
        ranks = next((ranks for kimg, ranks in reversed(begins) if kimg < row["kimg"]), 1)
        total += (row["kimg"] - before) * (row["timing"].get("sec_per_kimg") or 0.0) * ranks / 3600
        before = row["kimg"]
        found.append((before, total))
    return found


def _at(hours: Curve, kimg: float) -> float:
    """The hours until a kimg, between the rows along a straight line."""
    before = (0.0, 0.0)
    for after in hours:
        if after[0] >= kimg:
            share = (kimg - before[0]) / (after[0] - before[0])
            return before[1] + share * (after[1] - before[1])
        before = after
    return before[1]


def _measured(results: _Results) -> Measured:
    values: dict[str, list[float]] = {}
    for each in (each for of_file in results.values() for each in of_file):
        if each.value is not None:
            values.setdefault(each.label, []).append(each.value)
    files = [file for file, found in results.items() if found]
    pages = [
        page for file in files for page in sorted(file.parent.glob(f"{glob.escape(file.stem)}-memorisation-*.png"))
    ]
    images = provenance(files[0]).get("images")
    every = [one for each in results.values() for one in each]
    classes = [name for one in every for name in one.protocol.get("classes", [])]
    classes += ["all classes alike" for one in every if one.protocol.get("rebalanced")]
    kimg = images / 1000 if isinstance(images, int) else 0.0
    return Measured(files, kimg, values, pages[0] if pages else None, list(dict.fromkeys(classes)))


def _warnings(runs: list[RunFindings], results: dict[str, dict[str, _Results]]) -> list[str]:
    """Why numbers may not be compared."""
    found = []
    by_label: dict[str, dict[str, set[str]]] = {}
    for _, each in (each for of_run in results.values() for each in _numbered(of_run)):
        for key, value in each.way().items():
            by_label.setdefault(each.label, {}).setdefault(key, set()).add(repr(value))
    for label, ways in by_label.items():
        if different := [key for key, values in ways.items() if len(values) > 1]:
            found.append(f"{label}: the runs were measured with different {', '.join(different)}")
    if len({way for each in runs for way in each.curve_ways}) > 1:
        found.append("the runs evaluated themselves in several ways: their curves do not compare")
    if len(digests := {each.digest for each in runs if each.digest}) > 1:
        found.append(f"the runs learn {len(digests)} different sets of images")
    return [*found, *(f"{each.run.name}: {each.failure}" for each in runs if each.failure is not None)]


def differing(findings: Findings) -> dict[str, list[str]]:
    """By key, what it is in each variant's first run; only keys that differ. `-`: the variant has no such key."""
    first = [next((each for each in findings.of(name) if each.config), None) for name in findings.plan.config.variants]
    configs = [{} if each is None or each.config is None else each.config for each in first]
    keys = dict.fromkeys(key for config in configs for key in config)
    table = {key: [setting(config.get(key)) if config else "" for config in configs] for key in keys}
    return {key: values for key, values in table.items() if len({each for each in values if each}) > 1}


def require_any(findings: Findings) -> None:
    """Raises SpiderError if there is nothing to tell."""
    if all(each.state == "not begun" for each in findings.runs):
        raise SpiderError(f"{findings.plan.out}: no run of the study has begun")
