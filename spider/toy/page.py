"""The page of a toy: the movie, what it shows, and the numbers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from shards.points import Modes
from spider import page
from spider.files import write_text
from spider.toy.request import ToyRequest
from untrusted.counts import counted

if TYPE_CHECKING:
    from spider.toy.lab import Variant

REPORT, MOVIE, LAST, NUMBERS = "report.html", "toy.gif", "toy.png", "toy.json"


def write_report(request: ToyRequest, variants: Sequence[Variant], law: Modes | None, out: Path) -> None:
    """Write OUT/report.html."""
    parts = [
        page.picture(
            out / MOVIE,
            f"points and the discriminator's field of {counted(len(request.named), 'variant')}, as they learn",
            "Orange: generated points. Grey: real ones. Colour: what D says, blue real, red generated. Arrows: where D "
            "sends a point; a longer one is a steeper slope. Below: what was measured up to the frame.",
            detailed=True,
        ),
        page.heading("At the end"),
        page.table(*_numbers(variants, law)),
        page.heading("By hand"),
        page.commands([shlex.join(["spider", *request.words()])]),
    ]
    write_text(out / REPORT, page.page(f"Toy: {request.plane}", parts))


def _numbers(variants: Sequence[Variant], law: Modes | None) -> tuple[list[str], list[list[str]], str]:
    measures = {"distance": "energy distance"}
    if law is not None:
        measures = {"modes": f"modes of {len(law.centres)}", "good": "points near a mode", **measures}
    if any("slicing/optimality" in each.rows[-1] for each in variants):
        measures["slicing/optimality"] = "optimality of the direction"
    by_name: dict[str, list[Variant]] = {}
    for each in variants:
        by_name.setdefault(each.name, []).append(each)
    rows = [[_named(same), *(_over_seeds(same, measure) for measure in measures)] for same in by_name.values()]
    seeds = [each.seed for each in next(iter(by_name.values()))]
    listed = f"training seed {seeds[0]}" if len(seeds) == 1 else f"mean, lowest and highest over {len(seeds)} seeds"
    caption = f"After {variants[0].rows[-1]['kimg']:g} kimg, of 1,000 points of the averaged generator; {listed}."
    if law is not None:
        caption += " A mode is covered if a fifth of its share of points lies within three standard deviations of it."
    return ["", *measures.values()], rows, caption


def _named(same: Sequence[Variant]) -> str:
    trained = same[0].config
    parameters = ", ".join(f"{role} {getattr(trained, role).kind}" for role in ("generator", "discriminator"))
    return f"{same[0].name}\nobjective {trained.objective.kind}, {parameters}"


def _over_seeds(same: Sequence[Variant], measure: str) -> str:
    values = [value for each in same if (value := each.rows[-1].get(measure)) is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{fmean(values):.3g}\n{min(values):.3g} to {max(values):.3g}"
