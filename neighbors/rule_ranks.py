"""What the rules say of the same sources, side by side, and whether they agree about the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spider.tables import aligned

if TYPE_CHECKING:
    from neighbors.report import NeighborRow


def first_picks(rows: Sequence[NeighborRow]) -> dict[str, list[str]]:
    """The sources that any rule picks first, each with these rules; a rule that drops every source has none."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for rule, place in row.by_rule.items():
            if place.rank == 1 and place.takes_part:
                found.setdefault(row.source, []).append(rule)
    return found


def rank_lines(rows: Sequence[NeighborRow]) -> list[str]:
    """Ranks under every rule for a terminal, and a line if the first picks differ; nothing where nothing is ranked."""
    ranked = [row for row in rows if row.by_rule and not row.place.is_target]
    if len(ranked) < 2:
        return []
    cells = [
        [row.source, *(str(place.rank) if place.takes_part else "-" for place in row.by_rule.values())]
        for row in ranked
    ]
    title = f"rank under each rule, order {ranked[0].curves[0].kernel.label}; - dropped by it"
    lines = [title, aligned([["", *ranked[0].by_rule], *cells])]
    picks = first_picks(rows)
    if len(picks) > 1:
        said = ", ".join(f"{source} ({', '.join(rules)})" for source, rules in picks.items())
        lines.append(f"! the rules disagree about the first pick: {said}; compare the images in picks.png")
    return lines
