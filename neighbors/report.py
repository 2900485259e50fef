"""What a neighbour search found, as files, as a table and as figures.

    OUT/neighbors.json     {"target", "embedding": {...}, "rows": [{"source", "rank", "fid", "kid",
                            "csid": {"-1": {"value", "stderr", "screen", "rank", "friendly"}}, "friendly", "why",
                            "rules": {"paper": {"score", "rank", "takes_part", "friendly"}}}], "protocol": {...}, ...}
        neighbors.csv      the rows
        curves.png         signed distance against radius
        heatmap.png        sources against measures, the picks framed
        picks.png          images of the target and of what rules pick first (neighbors/pictures.py)

Rows are in order of rank, under the rule that was asked for and by the first kernel order, as are the ranks under the
other rules; those that screening left out of the shortlist come last, with
their screened values. "screening" says how well it agrees with the full measure. "fid" and "kid" are null under an
embedding that is not the literature's Inception; "fd" and "kd" have the same distances under any, and "labels" says
what tables call them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neighbors.rank_correlation import rank_correlation
from neighbors.rule_ranks import first_pick_lines, first_picks, rank_lines
from spider.files import finite, write_text
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.figures import draw_curves, draw_heatmap, short
from spider.judge.sid.rules import RULES
from spider.judge.sid.selection import Place, nothing_was_picked, nothing_was_selected
from spider.tables import aligned

FORMAT = 1
FILES = ("neighbors.json", "neighbors.csv", "curves.png", "heatmap.png", "picks.png")


@dataclass(frozen=True)
class NeighborRow:
    """One source.

    Attributes:
        source: its name.
        count: images that were measured.
        places: rank, pick and reason, by each order.
        curves: one per order; those of `screen` if it was only screened.
        screen: one per order, from moments alone.
        fd: Fréchet distance to the target; None if it was only screened.
        kd: kernel distance to the target; likewise.
        by_rule: its place under every rule, by the first order; empty if it was only screened beside others that were
            measured.
    """

    source: str
    count: int
    places: list[Place]
    curves: list[SidCurve]
    screen: list[SidCurve]
    fd: float | None
    kd: float | None
    by_rule: dict[str, Place]

    @property
    def place(self) -> Place:
        """By the first order."""
        return self.places[0]

    @property
    def measured(self) -> bool:
        """Whether it got the full measure."""
        return self.curves[0].mode != "screen"


@dataclass(frozen=True)
class NeighborReport:
    """What a search found.

    Attributes:
        target: the target's name.
        embedding: what its numbers are under.
        rows: the sources, by rank.
        labels: what tables call `fd` and `kd`.
        protocol: everything else that the numbers depend on.
        warnings: why to doubt some of them.
    """

    target: str
    embedding: dict[str, Any]
    rows: list[NeighborRow]
    labels: dict[str, str]
    protocol: dict[str, Any]
    warnings: list[str]

    @property
    def picks(self) -> list[str]:
        """Names of the friendly neighbours, the nearest first."""
        return [row.source for row in self.rows if row.place.friendly]

    def first_picks(self) -> dict[str, list[str]]:
        """The sources that any rule picks first, each with these rules."""
        return first_picks(self.rows)

    def table(self) -> str:
        """The rows for a terminal, the ranks under every rule, and the warnings."""
        orders = [curve.kernel.label for curve in self.rows[0].curves]
        screened = ["screened"] if self._is_measured else []
        header = [
            "",
            "source",
            "images",
            *screened,
            *(cell for k in orders for cell in (f"CSID[{k}]", "±")),
            *self.labels.values(),
            "",
        ]
        lines = [
            [
                f"{row.place.rank}{'*' if row.place.friendly else ' '}",
                row.source,
                f"{row.count:,}",
                *self._numbers(row),
                row.place.why,
            ]
            for row in self.rows
        ]
        notes = [f"! {warning}" for warning in self.warnings]
        if (unchosen := nothing_was_selected([row.place for row in self.rows], self.protocol["picks"])) is not None:
            notes.append(f"! {unchosen}")
        if (none := self.without_picks()) is not None:
            notes.append(f"! {none}")
        agreement = self.screening()
        if agreement is not None:
            notes.insert(0, agreement["words"])
        how = f"mode {self.protocol['mode']}, rule {self.protocol['rule']}"
        title = f"neighbours of {self.target}, {self.embedding['label']}, {how}; * friendly"
        legend = legend_of(self.protocol)
        sure = first_pick_lines(self.rows, self.protocol["rule"])
        return "\n".join([title, aligned([header, *lines]), *sure, *rank_lines(self.rows), legend, *notes])

    def without_picks(self) -> str | None:
        """Why there is no pick; None if there is one."""
        return nothing_was_picked({row.source: row.place for row in self.rows})

    def _numbers(self, row: NeighborRow) -> list[str]:
        """The cells of a row that are measured; none of the target itself, of which they are rounding."""
        screened = [row.screen[0].csid] if self._is_measured else []
        if row.place.is_target:
            return ["-"] * (len(screened) + 2 * len(row.curves) + len(self.labels))
        csids = [
            cell
            for curve in row.curves
            for cell in (
                (_cell(curve.csid, curve.csid_stderr), _cell(curve.csid_stderr, curve.csid_stderr))
                if row.measured or not screened
                else ("-", "-")
            )
        ]
        return [*map(_cell, screened), *csids, _cell(row.fd), _cell(row.kd)]

    def screening(self) -> dict[str, Any] | None:
        """How well screening ranked what was measured; None if that is less than three sources.

        "rank_correlation" is Spearman's, by order; "relative_error" the median of |screened - measured| / |measured|.
        """
        others = [row for row in self.rows if row.measured and row.fd is not None and not row.place.is_target]
        if len(others) < 3:
            return None
        found: dict[str, Any] = {"sources": len(self.rows), "measured": len(others), "orders": {}}
        for k, curve in enumerate(others[0].curves):
            full = np.array([row.curves[k].csid for row in others])
            screen = np.array([row.screen[k].csid for row in others])
            found["orders"][curve.kernel.label] = {
                "rank_correlation": rank_correlation(screen, full),
                "relative_error": float(np.median(np.abs(screen - full) / np.abs(full))),
            }
        words = ", ".join(
            f"order {label} {each['rank_correlation']:.3f} (off by {each['relative_error']:.1%})"
            for label, each in found["orders"].items()
        )
        return {
            **found,
            "words": f"screening against the full measure of {len(others)} sources, rank correlation: {words}",
        }

    @property
    def _is_measured(self) -> bool:
        return bool(self.protocol["mode"] != "screen")

    def to_json(self) -> dict[str, Any]:
        """The document of neighbors.json."""
        return {
            "format": FORMAT,
            "target": self.target,
            "embedding": self.embedding,
            "labels": self.labels,
            "rows": [self._row_json(row) for row in self.rows],
            "protocol": self.protocol,
            "screening": finite(self.screening()),
            "warnings": self.warnings,
            "curves": {
                row.source: {curve.kernel.label: _curve_json(curve) for curve in row.curves} for row in self.rows
            },
        }

    def _row_json(self, row: NeighborRow) -> dict[str, Any]:
        return {
            "source": row.source,
            "rank": row.place.rank,
            "fid": row.fd if self.labels["fd"] == "FID" else None,
            "kid": row.kd if self.labels["kd"] == "KID" else None,
            "fd": row.fd,
            "kd": row.kd,
            "csid": {
                curve.kernel.label: {
                    "value": curve.csid,
                    "stderr": curve.csid_stderr,
                    "trapezoid": curve.csid_trapezoid,
                    "screen": screen.csid,
                    "rank": place.rank,
                    "friendly": place.friendly,
                }
                for curve, screen, place in zip(row.curves, row.screen, row.places, strict=True)
            },
            "measured": row.measured,
            "friendly": row.place.friendly,
            "why": row.place.why,
            "ties": list(row.place.ties),
            "rules": {
                rule: {
                    "score": finite(place.score),
                    "rank": place.rank,
                    "takes_part": place.takes_part,
                    "friendly": place.friendly,
                }
                for rule, place in row.by_rule.items()
            },
        }

    def write(self, out: Path) -> None:
        """Write all files but picks.png."""
        write_text(out / "neighbors.json", json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
        write_text(out / "neighbors.csv", self.to_csv())
        bands = "" if self.protocol["mode"] == "screen" else "; bands: 95 %"
        note = f"{self.embedding['label']}, mode {self.protocol['mode']}{bands}"
        # The target itself, where it is among the sources, is no neighbour to look at
        rows = [row for row in self.rows if not row.place.is_target] or self.rows
        shown = [row for row in rows if row.measured or not self._is_measured]
        picks = [[row.source for row in shown if row.places[k].friendly] for k in range(len(self.rows[0].curves))]
        draw_curves(out / "curves.png", self.target, {row.source: row.curves for row in shown}, picks, note)
        columns = [f"CSID\norder {curve.kernel.label}" for curve in self.rows[0].curves]
        values: list[list[float | None]] = [[curve.csid for curve in row.curves] for row in rows]
        if self.protocol["mode"] != "screen":
            columns += self.labels.values()
            values = [[*csids, row.fd, row.kd] for csids, row in zip(values, rows, strict=True)]
        draw_heatmap(
            out / "heatmap.png",
            f"Neighbours of {self.target} ({self.embedding['label']})",
            [row.source for row in rows],
            columns,
            values,
            framed=[(i, k) for i, row in enumerate(rows) for k, place in enumerate(row.places) if place.friendly],
            screened=[
                (i, k)
                for i, row in enumerate(rows)
                for k in range(len(row.curves))
                if self._is_measured and not row.measured
            ],
            dropped=[(i, k) for i, row in enumerate(rows) for k, place in enumerate(row.places) if place.is_dropped],
        )

    def to_csv(self) -> str:
        """The rows, a column per number."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        orders = [curve.kernel.label for curve in self.rows[0].curves]
        columns = [name for k in orders for name in (f"csid[{k}]", f"csid_stderr[{k}]", f"csid_screened[{k}]")]
        rules = [f"rank[{rule}]" for rule in RULES]
        writer.writerow(["rank", "source", "images", "friendly", *columns, *self.labels.values(), *rules, "why"])
        for row in self.rows:
            csids = [
                value
                for curve, screen in zip(row.curves, row.screen, strict=True)
                for value in (curve.csid if row.measured else None, curve.csid_stderr, screen.csid)
            ]
            place, ranks = row.place, [row.by_rule[rule].rank if row.by_rule else None for rule in RULES]
            writer.writerow(
                [place.rank, row.source, row.count, place.friendly, *csids, row.fd, row.kd, *ranks, place.why]
            )
        return out.getvalue()


_MODES: dict[str, str] = {
    "robust": "CSID is a mean over subsets of the images, ± its standard error",
    "paper": "CSID by the published algorithm",
    "screen": "CSID from means and variances alone",
}


def legend_of(protocol: Mapping[str, Any]) -> str:
    """What the words of a table mean, in a line."""
    picks = protocol["picks"]
    return (
        f"{_MODES[protocol['mode']]}. friendly: the first {f'{picks} ' if picks > 1 else ''}by rule {protocol['rule']} "
        "(--picks) of the sources that it does not drop; farther than the picks: behind these by that rule"
    )


def _curve_json(curve: SidCurve) -> dict[str, Any]:
    return {"values": curve.values.tolist(), "stderr": None if curve.stderr is None else curve.stderr.tolist()}


def _cell(value: float | None, stderr: float | None = None) -> str:
    return "-" if value is None else short(value, stderr)
