"""The page of a study, its figure and its numbers; a line for each variant on a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

from spider import page
from spider.files import finite, save_figure, write_text
from spider.judge.compare_figure import draw_curves
from spider.judge.seeds import Spread
from spider.runs.directory import images_of, kimg_text
from spider.runs.records import is_checkpoint_name
from spider.study.findings import Findings, Measured, RunFindings, better, differing
from spider.study.request import StudyRequest
from spider.tables import aligned, duration
from untrusted.counts import counted

REPORT, NUMBERS, CURVES = "report.html", "study.json", "curves.png"

_MANY_KEYS = 40  # in the table of what differs


def write_report(request: StudyRequest, findings: Findings) -> list[Path]:
    """Write OUT/report.html, OUT/study.json and, if anything was evaluated, OUT/curves.png."""
    request, out = replace(request, report=False), findings.plan.out  # the commands are those that do the work
    files = [out / REPORT, out / NUMBERS]
    if (figure := _curves(findings)) is not None:
        save_figure(figure, out / CURVES)
        files.append(out / CURVES)
    numbers = json.dumps(finite(as_json(request, findings)), indent=2, allow_nan=False)
    write_text(out / NUMBERS, numbers + "\n")
    write_text(out / REPORT, page.page(findings.plan.config.title, _parts(request, findings, figure is not None)))
    return files


def lines(findings: Findings) -> str:
    """For a terminal."""
    rows = [_head(findings), *([cell.replace("\n", ", ") for cell in row] for row in _main_rows(findings))]
    return "\n".join([aligned(rows), *_verdicts(findings), *(f"! {warning}" for warning in findings.warnings)])


def as_json(request: StudyRequest, findings: Findings) -> dict[str, Any]:
    """Plain data."""
    plan = findings.plan
    return {
        "title": plan.config.title,
        "command": shlex.join(["spider", *request.words()]),
        "values": plan.values,
        "baseline": plan.baseline,
        "seeds": plan.seeds,
        "labels": findings.labels,
        "variants": {
            name: {
                "baseline": plan.baseline_of(name),
                "published": variant.published,
                "metrics": {label: _metric_json(findings, name, label) for label in findings.labels},
                "to_baselines_best": {
                    str(seed): None if found is None else {"kimg": found[0], "hours": found[1]}
                    for seed, found in findings.to_baselines_best(name).items()
                },
            }
            for name, variant in plan.config.variants.items()
        },
        "runs": {each.run.name: _run_json(plan.out, each) for each in findings.runs},
        "differing": differing(findings),
        "warnings": findings.warnings,
    }


def _metric_json(findings: Findings, variant: str, label: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for which in ("last", "best"):
        values = findings.spread(variant, which, label)
        apart = findings.apart(variant, which, label)
        found[which] = {"by_seed": values.values, "mean": values.mean, "std": values.std}
        if variant != findings.plan.baseline_of(variant):
            found[which]["minus_baseline"] = {
                "by_seed": apart.values,
                "mean": apart.mean,
                "std": apart.std,
                "interval_95": apart.interval,
            }
    return found


def _run_json(out: Path, found: RunFindings) -> dict[str, Any]:
    return {
        "variant": found.run.variant,
        "seed": found.run.seed,
        "state": found.state,
        "failure": found.failure,
        "command": shlex.join(["spider", *found.run.train.words]),
        "images": found.digest,
        "devices": found.devices,
        "hours": found.hours[-1][1] if found.hours else None,
        "hours_before": found.before_hours,
        "curve": found.curve,
        "measured": {
            which: {
                "files": [_below(out, file) for file in each.files],
                "kimg": each.kimg,
                "values": each.values,
                "classes": each.classes,
            }
            for which, each in found.measured.items()
        },
    }


def _parts(request: StudyRequest, findings: Findings, has_curves: bool) -> Iterator[str]:
    plan = findings.plan
    if plan.config.claim:
        yield page.paragraph(f"The claim: {plan.config.claim.strip()}")
    yield page.boxed([page.bullets(_verdicts(findings) or ["Nothing was measured yet."])])
    if findings.warnings:
        yield page.heading("Before you compare", 3)
        yield page.bullets(findings.warnings)
    yield page.heading("The variants")
    yield page.table(_head(findings), _main_rows(findings), _main_caption(findings))
    others = [label for label in findings.labels if label != findings.deciding]
    if others:
        yield page.table(
            ["", *others],
            [
                [name, *(_mean(findings.spread(name, "last", label), len(plan.seeds)) for label in others)]
                for name in plan.config.variants
            ],
            f"The other measures at the end: mean over {counted(len(plan.seeds), 'training seed')}, and standard "
            f"deviation over them. {_directions(findings)}",
        )
    if has_curves:
        yield page.heading("As they learn")
        yield page.picture(
            plan.out / CURVES,
            f"{findings.curve_label} against images shown, a line for each variant",
            f"{findings.curve_label} of the runs' own evaluations. Lines: mean over the seeds, where all have one. "
            "Bands: lowest to highest. Thin: each seed, where not all have the same kimg.",
            detailed=True,
        )
    yield from _pictures(findings)
    yield page.heading("The runs")
    yield page.table(*_runs(findings))
    yield page.heading("What differs")
    table = differing(findings)
    yield page.table(
        ["key", *plan.config.variants],
        [[key, *values] for key, values in list(table.items())[:_MANY_KEYS]],
        "Keys of the configuration that are not the same in all variants, each variant's first run. "
        + (f"{len(table) - _MANY_KEYS} more are in {NUMBERS}." if len(table) > _MANY_KEYS else ""),
    )
    yield page.heading("By hand")
    yield page.paragraph("The study, which goes on where it is:", "note")
    yield page.commands([shlex.join(["spider", *request.words()])])
    yield page.paragraph("Its stages, each by itself:", "note")
    yield page.commands([shlex.join(["spider", *stage.words]) for stage in plan.stages])


def _head(findings: Findings) -> list[str]:
    label, plan = findings.deciding or findings.plan.metrics[0][0], findings.plan
    whose = "its baseline" if _has_own_baselines(findings) else plan.baseline
    to_it = [f"difference to {whose}", f"kimg to {whose}'s best", "device time to it"]
    head = ["", f"{label} at the end", f"{label} of the best", *to_it]
    return [*head, "published"] if any(each.published for each in plan.config.variants.values()) else head


def _main_rows(findings: Findings) -> list[list[str]]:
    plan, label = findings.plan, findings.deciding or ""
    has_published = any(each.published for each in plan.config.variants.values())
    rows = []
    for name, variant in plan.config.variants.items():
        last, best = (findings.spread(name, which, label) for which in ("last", "best"))
        baseline, apart = (
            plan.baseline_of(name),
            _mean(findings.apart(name, "last", label), len(plan.seeds), signed=True),
        )
        reached = findings.to_baselines_best(name)
        row = [
            "\n".join([name, *filter(None, [variant.about, _judged(findings, name)])]),
            _with_failures(findings, name, _mean(last, len(plan.seeds))),
            _mean(best, len(plan.seeds)),
            "" if name == baseline else f"{apart}\nto {baseline}" if _has_own_baselines(findings) else apart,
            *_reached(list(reached.values()), _is_open(findings, name)),
        ]
        rows.append([*row, variant.published or "-"] if has_published else row)
    return rows


def _judged(findings: Findings, name: str) -> str:
    """By which images of a variant it was judged, if not by all."""
    classes = [each for run in findings.of(name) for found in run.measured.values() for each in found.classes]
    return f"judged by its images of {', '.join(dict.fromkeys(classes))}" if classes else ""


def _main_caption(findings: Findings) -> str:
    plan = findings.plan
    way = "lower" if findings.lower_is_better else "higher"
    whose, under = ("its baseline", "the baseline") if _has_own_baselines(findings) else (plan.baseline, plan.baseline)
    return (
        f"{counted(len(plan.seeds), 'training seed')}: mean, and below it the standard deviation; {way} is better. "
        "The best: the checkpoint that the run itself chose by its own evaluations, measured again. "
        f"Difference to {whose}: at the end, paired by seed. Kimg to {whose}'s best: what a run "
        f"had seen when its own evaluation was as good as the best of {under} under that seed. Device time "
        "to it: of all devices, with the stages before, without evaluations and saves; ?: one of these was not timed."
    )


def _has_own_baselines(findings: Findings) -> bool:
    plan = findings.plan
    return any(plan.baseline_of(name) != plan.baseline for name in plan.config.variants)


def _with_failures(findings: Findings, name: str, text: str) -> str:
    runs = findings.of(name)
    notes = []
    for state in ("diverged", "failed"):
        if count := sum(each.state == state for each in runs):
            notes.append(f"{count} of {len(runs)} {state}")
    for each in runs:
        if each.is_under_way:
            notes.append(f"{each.run.name} {each.state}")
    if count := sum(not (each.is_over or each.is_under_way) and each.failure is None for each in runs):
        notes.append(f"{count} of {len(runs)} not finished")
    return "\n".join([text, *notes])


def _is_open(findings: Findings, name: str) -> bool:
    """Whether a run of the variant, or of its baseline, has neither finished nor failed."""
    runs = [*findings.of(name), *findings.of(findings.plan.baseline_of(name))]
    return any(not each.is_over and each.failure is None for each in runs)


def _reached(found: Sequence[tuple[float, float | None] | None], is_open: bool) -> list[str]:
    """At how many kimg, and in which time, under the seeds of which it is known; `is_open`: there will be more."""
    reached = [each for each in found if each is not None]
    if not reached:
        return ["not yet" if is_open else "never" if found else "-", "-"]
    hours = [each[1] for each in reached if each[1] is not None]
    note = f"\nunder {len(reached)} of {counted(len(found), 'seed')}" if is_open or len(reached) < len(found) else ""
    note += " so far" if is_open else ""
    time = _hours(fmean(hours)) if len(hours) == len(reached) else "?"
    return [f"{fmean(each[0] for each in reached):.3g}{note}", time]


def _runs(findings: Findings) -> tuple[list[str], list[list[str]], str]:
    label, out = findings.deciding or "", findings.plan.out
    rows = []
    for each in findings.runs:
        row = [each.run.name, each.state]
        for which in ("last", "best"):
            found = each.measured.get(which)
            row.append("-" if found is None else _of_run(found, label))
        row += [
            f"{_hours(each.hours[-1][1])}\n{each.devices}" if each.hours else "-",
            "?" if each.before_hours is None else _hours(each.before_hours) if each.before_hours else "-",
            each.digest[:12] or "-",
        ]
        rows.append(row)
    head = ["", "state", f"{label} at the end", "of the best", "device time", "before it", "images"]
    measured = [found for each in findings.runs for found in each.measured.values()]
    files = sorted({_below(out, file.parent) for found in measured for file in found.files})
    more = " or RUN-CHECKPOINT-EMBEDDING.json" if len(findings.plan.metrics) > 1 else ""
    where = f" in {files[0]}/RUN-CHECKPOINT.json{more}" if files else ""
    caption = (
        "Mean over the evaluation seeds, and the standard deviation over them; then the checkpoint. Time of training "
        "on all its devices, and of the stages before it. Images: where the fingerprint of what it learns begins. "
        f"Every number is{where} below the study's folder."
    )
    return head, rows, caption


def _of_run(found: Measured, label: str) -> str:
    values = found.values.get(label, [])
    if not values:
        return "-"
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{fmean(values):.4g}{spread}\n{found.kimg:g} kimg"


def _pictures(findings: Findings) -> Iterator[str]:
    first = findings.plan.seeds[0]
    shown = [each for each in findings.runs if each.run.seed == first]
    grids = {each.run.name: grid for each in shown if (grid := _last_grid(each)) is not None}
    if grids:
        yield page.heading("Samples")
    for name, grid in grids.items():
        yield page.heading(name, 3)
        told = f"At {kimg_text(images_of(grid.stem))} kimg, uncurated."
        yield page.picture(grid, f"samples of {name}", told, pixels=True)
    pages = {each.run.name: found.page for each in shown if (found := each.measured.get("last")) and found.page}
    if pages:
        yield page.heading("Are they copies?")
    for name, picture in pages.items():
        yield page.heading(name, 3)
        yield page.picture(picture, f"samples of {name} and the nearest training images", "", detailed=True)


def _last_grid(found: RunFindings) -> Path | None:
    samples = Path(found.run.train.request.values()["run"]) / "samples"
    grids = sorted(file for file in samples.glob("*-kimg.png") if is_checkpoint_name(file.stem))
    return grids[-1] if grids else None


def _verdicts(findings: Findings) -> list[str]:
    """Each variant against the baseline in a sentence, by sign and by size."""
    if findings.deciding is None:
        return []
    others = [name for name in findings.plan.config.variants if name != findings.plan.baseline_of(name)]
    told = [_verdict(findings, name, findings.deciding) for name in others]
    if len(others) > 1:
        told.append("The intervals are of each comparison alone: among many, one may exclude 0 by chance.")
    return told


def _verdict(findings: Findings, name: str, label: str) -> str:
    baseline = findings.plan.baseline_of(name)
    for each in (baseline, name):
        if lost := sum(run.state == "diverged" for run in findings.of(each)):
            return (
                f"{name}: no verdict, since {each} diverged under {lost} of {counted(len(findings.of(each)), 'seed')}."
            )
    apart = findings.apart(name, "last", label)
    if apart.mean is None:
        return f"{name}: not measured beside {baseline} yet."
    if apart.is_zero:
        return f"{name}: {label} is identical to that of {baseline} under {counted(len(apart.values), 'seed')}."
    size = f"{label} is {_by_how_much(apart.mean)} than that of {baseline}{_otherwise(findings, name, apart.mean)}"
    count = f"better under {_better_seeds(findings, apart)} of {counted(len(apart.values), 'seed')}"
    return f"{name}: {size}, {count}{'.' if apart.interval is None else ';'} {apart.told_interval()}"


def _by_how_much(difference: float) -> str:
    return f"{abs(difference):.3g} {'lower' if difference < 0 else 'higher'}"


def _otherwise(findings: Findings, name: str, difference: float) -> str:
    """What the metric that decides says under another embedding, where that is the opposite."""
    told = []
    for label, metric in findings.labels.items():
        other = findings.apart(name, "last", label).mean
        if metric == findings.plan.metrics[0][0] and other is not None and other * difference < 0:
            told.append(f"{label} {_by_how_much(other)}")
    return f" (but {' and '.join(told)})" if told else ""


def _better_seeds(findings: Findings, apart: Spread) -> int:
    """Under how many seeds a difference to the baseline is for the better."""
    return sum(value < 0 if findings.lower_is_better else value > 0 for value in apart.values.values())


def _curves(findings: Findings) -> Figure | None:
    lines = {name: [each.curve for each in findings.of(name) if each.curve] for name in findings.plan.config.variants}
    if not any(lines.values()):
        return None
    figure = Figure(figsize=(8.5, 4.8), layout="constrained", dpi=120)
    draw_curves(figure.subplots(), findings.curve_label, lines)
    figure.legend(loc="outside lower center", ncols=min(4, len(lines)), frameon=False)
    return figure


def _directions(findings: Findings) -> str:
    others = [(label, metric) for label, metric in findings.labels.items() if label != findings.deciding]
    told = [f"{label} {way}" for label, metric in others if (way := better(metric)) is not None]
    return f"Better: {', '.join(told)}." if told else ""


def _mean(values: Spread, seeds: int, *, signed: bool = False) -> str:
    """Mean, standard deviation, and of how many seeds if not of all."""
    if values.mean is None:
        return "-"
    same = signed and values.is_zero
    lines = ["identical" if same else f"{values.mean:+.4g}" if signed else f"{values.mean:.4g}"]
    lines += [] if same or values.std is None else [f"± {values.std:.2g}"]
    lines += [f"{len(values.values)} of {seeds} seeds"] if len(values.values) < seeds else []
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return duration(3600 * hours)


def _below(out: Path, file: Path) -> str:
    return str(file.relative_to(out)) if file.is_relative_to(out) else str(file)
