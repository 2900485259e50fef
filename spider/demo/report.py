"""The report of the demo: one page with everything that came out, and what each number rests on.

OUT/figures/training.png            distance against images shown, a line per source
    figures/samples-<source>.png    samples, each beside the source image that made it
    report.html                     all of it, with the images inside
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from spider import page
from spider.config.schema import Config
from spider.demo.steps import Timing
from spider.demo.verdict import Arm, Curve, Verdict
from spider.files import save_figure, write_text
from spider.judge.metrics.nearest import page_name
from spider.judge.metrics.registry import METRICS
from spider.judge.metrics.results import MetricResult, read_results, summarise
from spider.pictures.grids import sample_grid, write_png
from spider.runs.directory import RunDirectory
from spider.runs.generator import open_generator
from spider.runs.provenance import git_state, versions
from untrusted.counts import counted
from untrusted.json_data import read_json

REPORT = "report.html"

_COLOURS = ("#5b6474", "#0072B2", "#D55E00")  # prior, first, last; without colour, their markers tell them apart
_MARKERS = ("o", "s", "^")
_PAIRS, _PAIRS_IN_ROW = 24, 4
_BETTER = {"lower": "lower is better", "higher": "higher is better", None: ""}


@dataclass(frozen=True)
class Run:
    """One training run, measured.

    Attributes:
        source: name of the dataset or prior that fed it.
        results: at its end, of every metric and evaluation seed.
    """

    source: str
    seed: int
    directory: RunDirectory
    results: list[MetricResult]

    def finals(self, label: str) -> list[float]:
        """A metric at the end, under each evaluation seed."""
        return [result.value for result in self.results if result.label == label and result.value is not None]

    def curve(self, label: str) -> Curve:
        """A metric while training; empty if it was measured at the end only."""
        return [
            (images / 1000, result.value)
            for images, file in self.directory.evaluation_files().items()
            for result in read_results(file)
            if result.label == label and result.value is not None
        ]

    @property
    def parameters(self) -> dict[str, int]:
        """How many train, by network."""
        return self.directory.starts()[-1].get("parameters", {})

    @property
    def data_wait_percent(self) -> float:
        """Share of the training time spent waiting for images and noise."""
        rows = [row["timing"] for row in self.directory.rows().rows]
        # Rows are equally many images apart, so that a row's time goes with its sec_per_kimg
        percent, seconds = (np.array([row[key] for row in rows]) for key in ("data_wait_percent", "sec_per_kimg"))
        return float(np.average(percent, weights=seconds))


@dataclass(frozen=True)
class Findings:
    """Everything that the report tells.

    Attributes:
        neighbours: the folder of neighbors.json and its figures.
        arms: prior, first neighbour, last neighbour.
        runs: of all arms.
        floor: the distance of as many images of the target itself.
        machine: what everything ran on.
        commands: what does each step by hand.
    """

    neighbours: Path
    arms: list[Arm]
    runs: list[Run]
    floor: MetricResult
    verdict: Verdict
    timings: list[Timing]
    machine: str
    commands: list[str]

    @cached_property
    def ranking(self) -> dict[str, Any]:
        """The document of neighbors.json."""
        document: dict[str, Any] = read_json(self.neighbours / "neighbors.json")
        return document

    @property
    def target(self) -> str:
        """The name of the dataset that was learned."""
        return str(self.ranking["target"])

    @cached_property
    def config(self) -> Config:
        """The configuration of the first run; the others differ in source and seed."""
        return self.runs[0].directory.config()

    @property
    def measured(self) -> int:
        """How many samples a distance is from."""
        return int(self.floor.provenance["samples"]["count"])

    @property
    def reference(self) -> dict[str, Any]:
        """{"name", "fingerprint", "count"} of what was measured against."""
        return dict(self.floor.provenance["reference"])

    def of(self, arm: Arm) -> list[Run]:
        """The runs of an arm."""
        return [run for run in self.runs if run.source == arm.source]

    def shown(self, arm: Arm) -> Run:
        """The run of an arm whose samples are shown: that of its first seed."""
        return self.of(arm)[0]


def write_report(findings: Findings, out: Path) -> Path:
    """Draw the figures and write the page; returns its path."""
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    draw_training(findings, figures / "training.png")
    for arm in findings.arms:
        draw_samples(findings.shown(arm).directory, figures / f"samples-{arm.source}.png")
    parts = [
        *_what_was_done(findings),
        *_what_came_out(findings),
        *_neighbours(findings),
        *_training(findings, figures),
        *_samples(findings, figures),
        *_nearest(findings),
        *_numbers(findings),
        *_costs(findings),
        *_by_hand(findings),
    ]
    write_text(out / REPORT, page.page(f"Spider GAN demo: {findings.target} from noise and from neighbours", parts))
    return out / REPORT


# ---------------------------------------------------------------------------------------------------------- figures


def draw_training(f: Findings, path: Path) -> None:
    """Distance against images shown: the mean over training seeds, and a band from the lowest to the highest."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    for arm, colour, marker in zip(f.arms, _COLOURS, _MARKERS, strict=True):
        kimg, mean = zip(*arm.mean_curve, strict=True)
        values = np.array([[dict(curve)[k] for k in kimg] for curve in arm.curves])
        label = f"fed by {arm.words} (generator: {f.shown(arm).parameters['generator']:,} parameters)"
        axes.plot(kimg, mean, color=colour, marker=marker, markersize=4, linewidth=1.6, label=label)
        axes.fill_between(kimg, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)
    axes.set_xlabel("images shown to the discriminator (kimg: thousands)")
    axes.set_ylabel(f"{f.floor.label} to the {f.target}\n(no unit; log scale; lower is better)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    save_figure(figure, path)


def draw_samples(directory: RunDirectory, path: Path) -> None:
    """The first samples of evaluation seed 0, of the averaged generator; each beside its source image if it has one."""
    generator = open_generator(str(directory.path), torch.device("cpu"))
    images, sources = generator.with_sources(0, range(2 * _PAIRS))
    if sources is None:
        pixels = sample_grid(images, columns=2 * _PAIRS_IN_ROW)
    else:
        pixels = sample_grid(images[:_PAIRS], sources[:_PAIRS], columns=_PAIRS_IN_ROW)
    write_png(path, pixels)


# --------------------------------------------------------------------------------------------------------- sections


def _what_was_done(f: Findings) -> list[str]:
    prior, first, last = f.arms
    candidates = [f"{name} ({each['count']:,})" for name, each in f.ranking["protocol"]["sources"].items()]
    return [
        page.paragraph(
            f"The target is {f.target} ({counted(f.reference['count'], 'image')}); {' and '.join(candidates)} were "
            f"ranked by how near they are to it. One small GAN was then trained on the {f.target} in three ways: fed "
            f"by {prior.words}, by images of the nearest neighbour ({first.words}) and by images of the farthest "
            f"({last.words}), each for {f.config.kimg:g} thousand images under "
            f"{counted(len(prior.curves), 'training seed')}. Behind their first layers the three have the same "
            "networks, and the same settings, which were tuned on the GAN fed by noise."
        )
    ]


def _what_came_out(f: Findings) -> list[str]:
    return [
        page.heading("What came out"),
        page.boxed([page.paragraph(f.verdict.headline), page.bullets(f.verdict.details)]),
        page.paragraph(
            f"{f.floor.label} is a Fréchet distance under the built-in {f.floor.protocol['embedding']} embedding, "
            "a wavelet transform. It compares with other numbers of this page and with nothing else; in particular "
            "it is not FID, which takes Inception's weights. The demo judges by it because it is fast: the evaluations "
            f"of this page look at {_looked_at(f):,} generated images, and one core needs 0.25 ms for each; the "
            "embedding efficientnet, which knows objects, needs 7 ms. Take that one for your own images. "
            f"For scale: {f.measured:,} of the {f.target} themselves are at {_short(f.floor.value)}, images of "
            f"{f.ranking['rows'][0]['source']} as they are at {_short(f.ranking['rows'][0]['fd'])}.",
            "note",
        ),
    ]


def _looked_at(f: Findings) -> int:
    """Generated images that were embedded, while training and at the end."""
    while_training = sum(len(curve) for arm in f.arms for curve in arm.curves) * f.config.evaluate.count
    return while_training + sum(len(arm.values) for arm in f.arms) * f.measured


def _neighbours(f: Findings) -> list[str]:
    found, protocol = f.ranking, f.ranking["protocol"]
    order = next(iter(found["rows"][0]["csid"]))  # the first one ranks
    rows = [
        [
            f"{row['rank']}. {row['source']}\n{'friendly' if row['friendly'] else 'not friendly'}: {row['why']}",
            _with_error(row["csid"][order]),
            _short(row["fd"]),
            _short(row["kd"]),
        ]
        for row in found["rows"]
    ]
    sets = {f.target: protocol["target"], **protocol["sources"]}
    return [
        page.heading(f"The neighbours of the {f.target}"),
        page.paragraph(
            "Signed distance (SID) tells how far a dataset lies from the target, measured at points of a cube that "
            "grows around the target; it is negative for a dataset that is less diverse than the target. The area "
            "under it (CSID) ranks: the smallest that is not negative belongs to the nearest neighbour."
        ),
        page.table(
            ["", f"CSID[{order}]", found["labels"]["fd"], found["labels"]["kd"]],
            rows,
            f"Distances to the {f.target}; ±: standard error over images. Mode {protocol['mode']}, kernel order "
            f"{order}, {found['embedding']['label']} embedding (digest {found['embedding']['digest'][:12]}), seed "
            f"{protocol['seed']}, images: " + ", ".join(f"{name} {each['measured']:,}" for name, each in sets.items()),
        ),
        *(page.paragraph(warning, "note") for warning in found["warnings"]),
        page.picture(
            f.neighbours / "curves.png",
            f"Signed distance to the {f.target} against the size of the cube, a curve per candidate",
            "Signed distance against the size of the cube: the higher, the farther.",
        ),
    ]


def _training(f: Findings, figures: Path) -> list[str]:
    config, r1 = f.config, f.config.penalties
    return [
        page.heading("Training under the same budget"),
        page.picture(
            figures / "training.png",
            f"{f.floor.label} against kimg; at the end {', '.join(f'{a.words} {a.mean:.3g}' for a in f.arms)}",
            f"Lines: mean over the training seeds {_listed([run.seed for run in f.of(f.arms[0])])}; bands: lowest to "
            f"highest. Measured every {config.evaluate.every_kimg:g} kimg on {config.evaluate.count:,} samples of the "
            f"averaged generator, evaluation seed {config.evaluate.seed}, against all {f.reference['count']:,} "
            "training images.",
        ),
        page.paragraph(
            "Noise enters through a dense layer, images through a convolutional encoder, which is why the generators "
            "differ in size; all layers behind that are alike. Every discriminator has "
            f"{f.runs[0].parameters['discriminator']:,} parameters. DCGAN, {config.objective.kind.replace('_', '-')} "
            f"loss, R1 (gamma {r1.r1_gamma:g}, every {r1.interval_steps} steps), Adam (learning rates "
            f"{config.g_optimizer.lr:g} and {config.d_optimizer.lr:g}), batch {config.batch}.",
            "note",
        ),
    ]


def _samples(f: Findings, figures: Path) -> list[str]:
    parts = [
        page.heading("Samples"),
        page.paragraph(
            f"The first of evaluation seed 0 at the end of training, not chosen; training seed "
            f"{f.shown(f.arms[0]).seed}. Images that feed a GAN are shown without the noise that is added to them."
        ),
    ]
    for arm in f.arms:
        is_prior = arm is f.arms[0]
        parts += [
            page.heading(f"Fed by {arm.words}", 3),
            page.picture(
                figures / f"samples-{arm.source}.png",
                f"Samples of the GAN fed by {arm.words}",
                "Samples; the noise that went in has no picture."
                if is_prior
                else f"In each pair, left what went in ({arm.words}), right what came out.",
                pixels=True,
            ),
        ]
    return parts


def _nearest(f: Findings) -> list[str]:
    parts = [
        page.heading("Are they copies?"),
        page.paragraph(
            "Each sample beside the training image that is nearest to it. How near is near shows in the distances of "
            "training images to each other: a GAN that copies would have samples much nearer than that."
        ),
    ]
    for arm in f.arms:
        parts += [
            page.heading(f"Fed by {arm.words}", 3),
            page.picture(
                f.shown(arm).directory.evaluations / page_name(f.runs[0].results[0].protocol["embedding"]),
                f"Memorisation page of the GAN fed by {arm.words}: distances, and samples beside training images",
                "How far samples are from training images, and those from each other; and the pairs.",
                detailed=True,
            ),
        ]
    return parts


def _numbers(f: Findings) -> list[str]:
    first = f.runs[0].results
    names = list(dict.fromkeys(result.name for result in first))
    return [
        page.heading("Every number, and what it rests on"),
        page.table(
            ["fed by", *(arm.words for arm in f.arms)],
            [[_metric_name(name, first), *(_metric_cell(name, f.of(arm)) for arm in f.arms)] for name in names],
            "Mean over training and evaluation seeds; below it, after the number of each training seed, mean and "
            "standard deviation over evaluation seeds.",
        ),
        page.bullets(
            [
                _embedding_line(first[0]),
                _samples_line(first),
                _reference_line(f),
                *_constants(first),
                *dict.fromkeys(f"{r.label}: {text}" for run in f.runs for r in run.results for text in r.warnings),
            ]
        ),
    ]


def _costs(f: Findings) -> list[str]:
    rows = [[timing.step, f"{timing.wall_s:.1f}", f"{timing.cpu_s:.1f}"] for timing in f.timings]
    total = [f"{sum(t.wall_s for t in f.timings):.1f}", f"{sum(t.cpu_s for t in f.timings):.1f}"]
    waits = [run.data_wait_percent for run in f.runs]
    return [
        page.heading("Time"),
        page.table(["step", "seconds", "processor seconds"], [*rows, ["all", *total]], f"On {f.machine}."),
        page.paragraph(
            f"Training waited for images {fmean(waits):.1f} % of its time, {max(waits):.1f} % in the run with the most."
        ),
    ]


def _by_hand(f: Findings) -> list[str]:
    state = git_state()
    built = [f"{name} {version}" for name, version in versions().items()]
    if state is not None:
        built.append(f"commit {state['commit'][:12]}{' with changes' if state['dirty'] else ''}")
    return [
        page.heading("The same by hand"),
        page.commands(f.commands),
        page.paragraph(
            f"Every loss, logit, gradient norm and sample grid of the runs: tensorboard --logdir "
            f"{f.runs[0].directory.path.parent}",
            "note",
        ),
        page.heading("Versions"),
        page.paragraph(", ".join(built) + "."),
    ]


# ------------------------------------------------------------------------------------------------------------ words


def _metric_name(name: str, results: list[MetricResult]) -> str:
    label = next(result.label for result in results if result.name == name)
    better = _BETTER[METRICS[name].better]
    return f"{label}\n{better}" if better else label


def _metric_cell(name: str, runs: list[Run]) -> str:
    """The mean over training seeds, and a line for each of them."""
    means, lines = [], []
    for run in runs:
        (summary,) = (summary for summary in summarise(run.results) if summary.name == name)
        spread = "" if summary.std is None else f" ± {summary.std:.1g}"
        lines.append(f"{run.seed}: {_short(summary.mean)}{spread}")
        means += [] if summary.mean is None else [summary.mean]
    return "\n".join([_short(fmean(means) if len(means) == len(runs) else None), *lines])


def _embedding_line(result: MetricResult) -> str:
    protocol = result.protocol
    return (
        f"Embedding: {protocol['embedding']}, {protocol['dim']} numbers per image, resize rule {protocol['resize']}, "
        f"digest {protocol['embedding_digest']}."
    )


def _samples_line(results: list[MetricResult]) -> str:
    seeds = list(dict.fromkeys(result.protocol["seed"] for result in results))
    return (
        f"Samples: {results[0].provenance['samples']['count']:,} for each of the evaluation seeds {_listed(seeds)}, "
        "which are apart from the training seeds; averaged generator of the last checkpoint, which no metric chose."
    )


def _reference_line(f: Findings) -> str:
    return (
        f"Reference: all {f.reference['count']:,} images of {f.reference['name']}, fingerprint "
        f"{f.reference['fingerprint']}. They are the training images too, so copies of them would score best: the "
        "section above is there to see whether there are any."
    )


def _constants(results: list[MetricResult]) -> list[str]:
    """What each metric's protocol has beyond what all of them share."""
    shared = set.intersection(*(set(result.protocol) for result in results))
    lines = {}
    for result in results:
        own = [
            f"{key.replace('_', ' ')} {_plain(value)}" for key, value in result.protocol.items() if key not in shared
        ]
        if own:
            lines[result.label] = f"{result.label}: {', '.join(own)}."
    return list(lines.values())


def _plain(value: Any) -> str:
    """A setting as a person writes it."""
    if not isinstance(value, dict):
        return str(value)
    return f"({', '.join(f'{key} {_plain(each)}' for key, each in value.items())})"


def _with_error(csid: dict[str, Any]) -> str:
    error = csid["stderr"]
    return _short(csid["value"]) + ("" if error is None else f"\n± {_short(error)}")


def _short(value: float | None) -> str:
    """Three digits, but all of those before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
