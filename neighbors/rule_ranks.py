"""What the rules say of the same sources, side by side, whether they agree about the first, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spider.judge.sid.curve import difference_stderr
from spider.judge.sid.figures import short
from spider.judge.sid.rules import PAPER
from spider.judge.sid.selection import SURE
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


def first_pick_lines(rows: Sequence[NeighborRow], rule: str) -> list[str]:
    """A line if the errors of the first pick and of another source overlap: whether their difference is beyond its own.

    Args:
        rows: in the order of the rule.
        rule: what ranks them.
    """
    first, others = rows[0], [row for row in rows[1:] if row.place.takes_part]
    if not first.place.friendly:
        return []
    tied = [row for row in others if row.source in first.place.ties]
    if tied:
        said = ", ".join(f"{row.source}{_apart(first, row)}" for row in tied)
        return [f"! the first pick, {first.source}, is nearer only within the error (95 %): {said}"]
    if rule == PAPER and others and _overlap(first, others[0]):
        said = (
            f"the first pick, {first.source}, is nearer beyond the error: {others[0].source}{_apart(first, others[0])}"
        )
        return [f"{said}; all sources see the same images of the target, which their difference leaves out"]
    return []


def _apart(first: NeighborRow, other: NeighborRow) -> str:
    """` is 4.3 ± 2.6 farther`; empty where CSID does not say it: of two signs, which a rule may take for one."""
    one, two = first.curves[0], other.curves[0]
    stderr = difference_stderr(one, two)
    if stderr is None or one.csid * two.csid < 0:
        return ""
    return f" is {short(other.place.score - first.place.score, stderr)} ± {short(stderr, stderr)} farther"


def _overlap(first: NeighborRow, other: NeighborRow) -> bool:
    """Whether two numbers with their errors look as if they might be one."""
    one, two = first.curves[0], other.curves[0]
    if one.csid_stderr is None or two.csid_stderr is None:
        return False
    return abs(two.csid - one.csid) < SURE * math.hypot(one.csid_stderr, two.csid_stderr)
