"""Which rule of `spider neighbors` ranks sources as the trainings of docs/results/neighbour-rules.sh came out.

    python -m benchmarks.neighbor_rules OUT [--figure FILE.png]

OUT is the script's, finished or not: what is there is judged. Each target is searched under both embeddings (features
are kept, so again in seconds), with gray sources dropped and kept.

    OUT/neighbors/EMBEDDING/TARGET/...     the searches, as the rules stand now
    OUT/rules.json                         ranks, outcomes and verdicts
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neighbors.find import neighbors
from neighbors.request import NeighborOptions
from neighbors.rule_verdict import Target, Verdict, verdicts
from spider.files import save_figure, write_text
from spider.judge.sid.rules import PAPER, RULES
from spider.tables import aligned

EMBEDDINGS = ("efficientnet", "offline")
METRICS = {"fid": "FD", "kid": "KD"}

Runs = dict[str, dict[str, dict[int, float]]]  # target -> source -> seed -> outcome


def read_runs(out: Path, embedding: str, metric: str) -> Runs:
    """The outcomes that are there."""
    runs: Runs = {}
    for file in sorted((out / "outcomes" / embedding).glob("*/*.json")):
        source, _, seed = file.stem.rpartition("-")
        (result,) = (each for each in json.loads(file.read_text())["results"] if each["name"] == metric)
        runs.setdefault(file.parent.name, {}).setdefault(source, {})[int(seed)] = result["value"]
    return runs


def whole(runs: Runs) -> dict[str, tuple[list[str], np.ndarray]]:
    """Of every target the sources, and the outcomes [sources, seeds] of the seeds that all of its sources have."""
    found = {}
    widest = max((len(sources) for sources in runs.values()), default=0)
    for target, sources in runs.items():
        seeds = sorted(set.intersection(*(set(of_seed) for of_seed in sources.values())))
        if seeds and len(sources) == widest:
            found[target] = (list(sources), np.array([[sources[name][s] for s in seeds] for name in sources]))
    return found


def ranks_under(out: Path, embedding: str, target: str, sources: Sequence[str]) -> dict[str, list[int]]:
    """Every rule's ranks, by `EMBEDDING RULE`, and by `EMBEDDING RULE, gray kept`."""
    found = {}
    for keep_gray in (False, True):
        report = neighbors(
            out / "shards" / target,
            {name: out / "shards" / name for name in sources},
            out=out / "neighbors" / (f"{embedding}-gray" if keep_gray else embedding) / target,
            options=NeighborOptions(embedding=embedding, keep_gray=keep_gray, progress=False),
        )
        rows = {row.source: row for row in report.rows}
        for rule in RULES:
            name = f"{embedding} {rule}" + (", gray kept" if keep_gray else "")
            found[name] = [rows[source].by_rule[rule].rank for source in sources]
    return found


def outcome_table(targets: Mapping[str, tuple[list[str], np.ndarray]], label: str) -> str:
    """Mean and standard deviation over seeds of every source."""
    names = sorted({name for sources, _ in targets.values() for name in sources})
    rows = [[label, *(f"{target} ({values.shape[1]} seeds)" for target, (_, values) in targets.items())]]
    for name in names:
        cells = []
        for sources, values in targets.values():
            of_source = values[sources.index(name)] if name in sources else None
            spread = "" if of_source is None or len(of_source) < 2 else f" ± {of_source.std(ddof=1):.2g}"
            cells.append("-" if of_source is None else f"{of_source.mean():.4g}{spread}")
        rows.append([name, *cells])
    return aligned(rows)


def verdict_table(found: Sequence[Verdict], than: str) -> str:
    """A row for each rule."""
    header = [
        "rule",
        "rank correlation",
        "95 %",
        *found[0].by_target,
        f"less {than}",
        "95 %",
        "first is best",
        "regret",
    ]
    rows = [
        [
            each.rule,
            f"{each.correlation:+.2f}",
            _span(each.interval),
            *(f"{value:+.2f}" for value in each.by_target.values()),
            f"{each.better[0]:+.2f}",
            _span(each.better[1:]),
            f"{each.first_is_best:.0%}",
            f"{each.regret:.1%}",
        ]
        for each in found
    ]
    return aligned([header, *rows])


def draw(found: Sequence[Verdict], title: str, path: Path) -> None:
    """Correlations with their intervals, the best on top."""
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(found)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for y, each in enumerate(reversed(found)):
        colour = "#D55E00" if each.rule.split()[1].rstrip(",") == PAPER else "#0072B2"
        axes.plot(each.interval, [y, y], color=colour, linewidth=2)
        axes.plot(list(each.by_target.values()), [y] * len(each.by_target), "|", color=colour, markersize=9, alpha=0.6)
        axes.plot([each.correlation], [y], "o", color=colour)
    axes.set_yticks(range(len(found)), [each.rule for each in reversed(found)])
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("rank correlation of the rule with the outcomes: mean over targets, 95 %; strokes: targets")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _span(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"


def main() -> None:
    """Judge what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of neighbour-rules.sh")
    parser.add_argument("--figure", type=Path, help="draw the verdict by FD[efficientnet]")
    given = parser.parse_args()

    document: dict[str, Any] = {}
    ranks: dict[str, dict[str, list[int]]] = {}
    than = f"{EMBEDDINGS[0]} {PAPER}"
    for embedding in EMBEDDINGS:
        for metric, short in METRICS.items():
            label = f"{short}[{embedding}]"
            there = whole(read_runs(given.out, embedding, metric))
            if not there:
                parser.exit(1, f"error: {given.out}: no target has an outcome of every source\n")
            for target, (sources, _) in there.items():
                if target not in ranks:
                    ranks[target] = {
                        rule: places
                        for each in EMBEDDINGS
                        for rule, places in ranks_under(given.out, each, target, sources).items()
                    }
            targets = [Target(name, sources, values, ranks[name]) for name, (sources, values) in there.items()]
            found = verdicts(targets, than=than)
            agreement = {each.name: each.seed_agreement() for each in targets}
            document[label] = {
                "targets": {each.name: {**asdict(each), "outcomes": each.outcomes.tolist()} for each in targets},
                "seed_agreement": agreement,
                "verdicts": [asdict(each) for each in found],
            }
            runs = sum(each.outcomes.size for each in targets)
            said = ", ".join(f"{name} {'-' if value is None else f'{value:+.2f}'}" for name, value in agreement.items())
            print(f"{outcome_table(there, label)}\nrank correlation of one seed with another: {said}\n")
            print(f"judged by {label}, {runs} runs\n{verdict_table(found, than)}\n")
            if given.figure is not None and (embedding, metric) == (EMBEDDINGS[0], "fid"):
                draw(found, f"Judged by {label} of {runs} small Spider GANs", given.figure)
    write_text(given.out / "rules.json", json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
