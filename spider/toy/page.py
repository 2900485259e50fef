"""The page of a toy: the movie, what it shows, and the numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from shards.points import Modes
from spider import page
from spider.files import write_text
from spider.judge.seeds import Spread
from spider.toy.picture import measures_of, named_alike
from spider.toy.request import ToyRequest
from untrusted.counts import counted

if TYPE_CHECKING:
    from spider.toy.lab import Variant

REPORT, MOVIE, LAST, SEEDS, NUMBERS = "report.html", "toy.gif", "toy.png", "seeds.png", "toy.json"


def write_report(request: ToyRequest, variants: Sequence[Variant], law: Modes | None, out: Path) -> None:
    """Write OUT/report.html."""
    several = len({each.seed for each in variants}) > 1
    of_first = f" Of training seed {variants[0].seed}." if several else ""
    parts = [
        page.picture(
            out / MOVIE,
            f"points and the discriminator's field of {counted(len(request.named), 'variant')}, as they learn",
            "Orange: generated points. Grey: real ones. Colour: what D says, blue real, red generated. Arrows: where D "
            "sends a point; a longer one is a steeper slope. Below: what was measured up to the frame. "
            "Optimality: how well the direction of D's last layer tells real from generated; at 1 none would do better."
            f"{of_first}",
            detailed=True,
        ),
        page.heading("At the end"),
        page.table(*_numbers(variants, law)),
        *(_over_seeds_drawn(variants, law, out) if several else []),
        page.heading("By hand"),
        page.commands([shlex.join(["spider", *request.words()])]),
    ]
    write_text(out / REPORT, page.page(f"Toy: {request.plane}", parts))


def _numbers(variants: Sequence[Variant], law: Modes | None) -> tuple[list[str], list[list[str]], str]:
    measures = measures_of(variants, law)
    by_name = named_alike(variants)
    rows = [[_named(same), *(_over_seeds(same, measure) for measure in measures)] for same in by_name.values()]
    seeds = [each.seed for each in next(iter(by_name.values()))]
    listed = f"training seed {seeds[0]}" if len(seeds) == 1 else f"mean, lowest and highest over {len(seeds)} seeds"
    caption = f"After {variants[0].rows[-1]['kimg']:g} kimg, of 1,000 points of the averaged generator; {listed}."
    caption += " Optimality: the mean of the second half." if "optimality" in measures else ""
    if law is not None:
        caption += " A mode is covered if a fifth of its share of points lies within three standard deviations of it."
    return ["", *measures.values()], rows, caption


def _over_seeds_drawn(variants: Sequence[Variant], law: Modes | None, out: Path) -> Iterator[str]:
    if lines := paired(variants, law):
        yield page.bullets(lines)
    yield page.picture(
        out / SEEDS,
        "measures against the points shown, and at the end, for each variant",
        "Above: mean over the seeds, and from the lowest to the highest. Below: each seed, and the mean of the seeds.",
        detailed=True,
    )


def paired(variants: Sequence[Variant], law: Modes | None) -> list[str]:
    """A line for each measure of each variant but the first: its difference to the first at the end, by seed."""
    by_name = named_alike(variants)
    baseline, *others = by_name
    lines = []
    for name, (measure, label) in product(others, measures_of(variants, law).items()):
        found, against = (
            Spread({each.seed: value for each in by_name[of] if (value := each.outcome(measure)) is not None})
            for of in (name, baseline)
        )
        apart = found.minus(against)
        if apart.mean is not None:
            size = "identical" if apart.is_zero else f"{apart.mean:+.3g}. {apart.told_interval()}"
            lines.append(f"{name} minus {baseline}, {label}: {size}")
    return lines


def _named(same: Sequence[Variant]) -> str:
    trained = same[0].config
    parameters = ", ".join(f"{role} {getattr(trained, role).kind}" for role in ("generator", "discriminator"))
    return f"{same[0].name}\nobjective {trained.objective.kind}, {parameters}"


def _over_seeds(same: Sequence[Variant], measure: str) -> str:
    values = [value for each in same if (value := each.outcome(measure)) is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{fmean(values):.3g}\n{min(values):.3g} to {max(values):.3g}"
