"""Which rule of `spider neighbors` ranks sources as the trainings of docs/results/neighbour-rules.sh came out.

    python -m benchmarks.neighbor_rules OUT [--outcomes FILE.csv] [--keep-gray] [--figure FILE.png]

OUT is the script's, finished or not: what is there is judged. FILE.csv has outcomes of other machines, which are judged
too, and gets those of OUT: so a study may go on elsewhere. Each target is searched under both embeddings; features are
kept, so again in seconds. The differences are from the paper's rule under the same embedding.

    OUT/neighbors/EMBEDDING/TARGET/...     the searches, as the rules stand now; EMBEDDING-gray with --keep-gray
    OUT/rules.json                         ranks, outcomes and verdicts; rules-gray.json
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
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
FEWEST = 6  # sources of a target, for ranks to say something

Ranks = dict[str, list[int]]  # by rule
Outcomes = dict[tuple[str, str, int, str, str], float]  # (target, source, seed, embedding, metric) -> value
Runs = dict[str, dict[str, dict[int, float]]]  # target -> source -> seed -> outcome


def outcomes_in(out: Path) -> Outcomes:
    """What the trainings in OUT came to."""
    outcomes: Outcomes = {}
    for file in (out / "outcomes").glob("*/*/*.json"):
        source, _, seed = file.stem.rpartition("-")
        for result in json.loads(file.read_text())["results"]:
            outcomes[file.parent.name, source, int(seed), file.parent.parent.name, result["name"]] = result["value"]
    return outcomes


def merged(outcomes: Outcomes, file: Path) -> Outcomes:
    """These and the ones in the table, which then holds all."""
    known: Outcomes = {}
    if file.exists():
        with file.open(newline="") as rows:
            known = {
                (row["target"], row["source"], int(row["seed"]), row["embedding"], row["metric"]): float(row["value"])
                for row in csv.DictReader(rows)
            }
    known = outcomes | known
    lines = [",".join(map(str, (*key, value))) for key, value in sorted(known.items())]
    write_text(file, "\n".join(["target,source,seed,embedding,metric,value", *lines]) + "\n")
    return known


def runs_of(outcomes: Outcomes, embedding: str, metric: str) -> Runs:
    """The outcomes by one metric."""
    runs: Runs = {}
    for (target, source, seed, *by), value in sorted(outcomes.items()):
        if by == [embedding, metric]:
            runs.setdefault(target, {}).setdefault(source, {})[seed] = value
    return runs


def whole(runs: Runs) -> dict[str, tuple[list[str], np.ndarray]]:
    """Of every target, sources and outcomes [sources, seeds]: seeds of six sources or more, sources with all these."""
    found = {}
    for target, sources in runs.items():
        trained = Counter(seed for of_seed in sources.values() for seed in of_seed)
        seeds = sorted(seed for seed, count in trained.items() if count >= FEWEST)
        names = [name for name, of_seed in sources.items() if of_seed.keys() >= set(seeds)]
        if seeds and len(names) >= FEWEST:
            found[target] = (names, np.array([[sources[name][seed] for seed in seeds] for name in names]))
    return found


@cache
def ranks_of(out: Path, embedding: str, target: str, sources: tuple[str, ...], keep_gray: bool) -> Ranks:
    """The ranks of these sources under every rule."""
    report = neighbors(
        out / "shards" / target,
        {name: out / "shards" / name for name in sources},
        out=out / "neighbors" / (f"{embedding}-gray" if keep_gray else embedding) / target,
        options=NeighborOptions(embedding=embedding, keep_gray=keep_gray, progress=False),
    )
    rows = {row.source: row for row in report.rows}
    return {rule: [rows[source].by_rule[rule].rank for source in sources] for rule in RULES}


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


def verdict_table(found: Sequence[Verdict]) -> str:
    """A row for each rule."""
    by_target = list(found[0].by_target)
    header = ["rule", "rank correlation", "95 %", *by_target, f"less {PAPER}", "95 %", "first is best", "regret"]
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


def draw(found: Mapping[str, Sequence[Verdict]], title: str, path: Path) -> None:
    """Correlations with their intervals, the best on top, a panel for each embedding of the search."""
    figure = Figure(figsize=(11, 1.4 + 0.32 * len(RULES)), layout="constrained", dpi=120)
    for axes, (embedding, of_embedding) in zip(figure.subplots(1, len(found), sharex=True), found.items(), strict=True):
        for y, each in enumerate(reversed(of_embedding)):
            colour = "#D55E00" if each.rule == PAPER else "#0072B2"
            axes.plot(each.interval, [y, y], color=colour, linewidth=2)
            axes.plot(list(each.by_target.values()), [y] * len(each.by_target), "|", color=colour, markersize=9)
            axes.plot([each.correlation], [y], "o", color=colour)
        axes.set_yticks(range(len(of_embedding)), [each.rule for each in reversed(of_embedding)])
        axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        axes.set_xlim(-1.05, 1.05)
        axes.set_title(f"rules under {embedding}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("rank correlation with the outcomes; dots: mean over targets, 95 %; strokes: targets", fontsize=10)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _span(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"


def main() -> None:
    """Judge what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of neighbour-rules.sh")
    parser.add_argument("--outcomes", type=Path, metavar="FILE.csv", help="outcomes of trainings elsewhere; gets these")
    parser.add_argument("--keep-gray", action="store_true", help="let gray sources of a colour target take part")
    parser.add_argument("--figure", type=Path, help="draw the verdict by FD[efficientnet]")
    given = parser.parse_args()

    outcomes = outcomes_in(given.out)
    if given.outcomes is not None:
        outcomes = merged(outcomes, given.outcomes)
    document: dict[str, Any] = {}
    for judge in EMBEDDINGS:
        for metric, short in METRICS.items():
            label = f"{short}[{judge}]"
            there = whole(runs_of(outcomes, judge, metric))
            if not there:
                parser.exit(1, f"error: {given.out}: no target has an outcome of every source\n")
            print(f"{outcome_table(there, label)}\n")
            runs = sum(outcomes.size for _, outcomes in there.values())
            found = {}
            for eyes in EMBEDDINGS:
                targets = [
                    Target(name, sources, outcomes, ranks_of(given.out, eyes, name, tuple(sources), given.keep_gray))
                    for name, (sources, outcomes) in there.items()
                ]
                found[eyes] = verdicts(targets, than=PAPER)
                print(f"rules under {eyes}, judged by {label}, {runs} runs\n{verdict_table(found[eyes])}\n")
                document.setdefault(label, {})[eyes] = {
                    "targets": {each.name: {**asdict(each), "outcomes": each.outcomes.tolist()} for each in targets},
                    "seed_agreement": {each.name: each.seed_agreement() for each in targets},
                    "verdicts": [asdict(each) for each in found[eyes]],
                }
            agreement = document[label][EMBEDDINGS[0]]["seed_agreement"]
            said = ", ".join(f"{name} {'-' if value is None else f'{value:+.2f}'}" for name, value in agreement.items())
            print(f"rank correlation of one seed with another, by {label}: {said}\n")
            if given.figure is not None and (judge, metric) == (EMBEDDINGS[0], "fid"):
                draw(found, f"Judged by {label} of {runs} small Spider GANs", given.figure)
    name = "rules-gray.json" if given.keep_gray else "rules.json"
    write_text(given.out / name, json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
