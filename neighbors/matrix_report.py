"""What a search of every dataset about every other found.

OUT/matrix.json                 {"datasets", "embedding", "csid": {"-1": {SOURCE: {TARGET: {"value", "stderr"}}}},
                                 "fd": {SOURCE: {TARGET: ...}}, "kd", "picks": {"-1": {TARGET: [SOURCE, ...]}},
                                     "separation": {"-1": {"z", "told_apart"}}, "protocol"}
    matrix.csv                  a row for each ordered pair
    heatmap.png                 CSID of the first order, sources against targets, the picks framed
    heatmap-ORDER.png           of each further order
    heatmap-fid.png             Fréchet distance, or heatmap-fd.png
    TARGET/neighbors.json ...   each target's own report, see `neighbors.report`
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from neighbors.report import FILES, NeighborReport, NeighborRow, legend_of
from spider.files import write_text
from spider.judge.sid.curve import difference_stderr
from spider.judge.sid.figures import draw_heatmap, short
from spider.judge.sid.selection import SURE
from spider.tables import aligned

FORMAT = 1


class MatrixReport:
    """One report for each target, over the same datasets.

    Attributes:
        reports: by target, in the order in which the datasets were named.
    """

    def __init__(self, reports: Sequence[NeighborReport]) -> None:
        """From the targets' reports."""
        self.reports = {report.target: report for report in reports}
        self._rows = {(row.source, target): row for target, report in self.reports.items() for row in report.rows}

    @property
    def datasets(self) -> list[str]:
        """Their names."""
        return list(self.reports)

    @property
    def picks(self) -> dict[str, list[str]]:
        """Each target's friendly neighbours, the nearest first."""
        return {target: report.picks for target, report in self.reports.items()}

    @property
    def _any(self) -> NeighborReport:
        return next(iter(self.reports.values()))

    @property
    def _orders(self) -> list[str]:
        return [curve.kernel.label for curve in self._any.rows[0].curves]

    def row(self, source: str, target: str) -> NeighborRow | None:
        """What was found of a source about a target; None for a dataset about itself."""
        return self._rows.get((source, target))

    def table(self) -> str:
        """CSID of the first order for a terminal: sources down, targets across."""
        header = ["source \\ target", *self.datasets]
        lines = [[source, *(self._cell(source, target) for target in self.datasets)] for source in self.datasets]
        how = f"mode {self._any.protocol['mode']}, rule {self._any.protocol['rule']}"
        title = f"CSID[{self._orders[0]}], {self._any.embedding['label']}, {how}; * friendly"
        separation = [
            f"order {order}: sources differ by {each['z']:.1f} standard errors (median), "
            f"{each['told_apart']:.0%} of their pairs by more than {SURE}"
            for order, each in self.separation().items()
        ]
        warnings = dict.fromkeys(warning for report in self.reports.values() for warning in report.warnings)
        disputed = [target for target, report in self.reports.items() if len(report.first_picks()) > 1]
        if disputed:
            said = f"the rules disagree about the first pick of {', '.join(disputed)}"
            warnings = {f"{said}; see TARGET/picks.png and TARGET/neighbors.csv": None, **warnings}
        unsure = [
            target
            for target, report in self.reports.items()
            if any(row.place.friendly and row.place.rank == 1 and row.place.ties for row in report.rows)
        ]
        if unsure:
            said = f"the first pick of {', '.join(unsure)} is nearer than another source only within the error"
            warnings = {f"{said}; see TARGET/neighbors.csv": None, **warnings}
        none = {target: report.without_picks() for target, report in self.reports.items()}
        warnings |= {f"{target}: {why}": None for target, why in none.items() if why is not None}
        legend, notes = legend_of(self._any.protocol), [f"! {warning}" for warning in warnings]
        return "\n".join([title, aligned([header, *lines]), *separation, legend, *notes])

    def separation(self) -> dict[str, dict[str, float]]:
        """How well each order tells sources of one target apart; nothing where differences have no standard error.

        "z": the median, over all pairs of sources of all targets, of |difference of CSID| / its standard error;
        "told_apart": the share of these pairs that differ by more than that at 95 %.
        """
        found = {}
        for k, order in enumerate(self._orders):
            ratios = [
                abs(a.csid - b.csid) / stderr
                for report in self.reports.values()
                for a, b in combinations([row.curves[k] for row in report.rows if row.measured], 2)
                if (stderr := difference_stderr(a, b))
            ]
            if ratios:
                z = np.array(ratios)
                found[order] = {"z": float(np.median(z)), "told_apart": float((z > SURE).mean())}
        return found

    def to_json(self) -> dict[str, Any]:
        """The document of matrix.json."""
        return {
            "format": FORMAT,
            "datasets": self.datasets,
            "embedding": self._any.embedding,
            "labels": self._any.labels,
            "csid": {order: self._by_pair(partial(_csid_json, k=k)) for k, order in enumerate(self._orders)},
            "fd": self._by_pair(lambda row: row.fd),
            "kd": self._by_pair(lambda row: row.kd),
            "picks": {
                order: {
                    target: [
                        row.source for row in sorted(report.rows, key=partial(_rank, k=k)) if row.places[k].friendly
                    ]
                    for target, report in self.reports.items()
                }
                for k, order in enumerate(self._orders)
            },
            "separation": self.separation(),
            "screening": {target: report.screening() for target, report in self.reports.items()},
            "protocol": {key: value for key, value in self._any.protocol.items() if key not in ("target", "sources")}
            | {"datasets": {target: report.protocol["target"] for target, report in self.reports.items()}},
        }

    def to_csv(self) -> str:
        """A row for each ordered pair, the pairs of a target in order of rank."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for number, (target, report) in enumerate(self.reports.items()):
            header, *rows = csv.reader(io.StringIO(report.to_csv()))
            writer.writerows([["target", *header]] if number == 0 else [])
            writer.writerows([target, *row] for row in rows)
        return out.getvalue()

    def write(self, out: Path) -> None:
        """Write all the files, and remove those of an earlier search that would stand beside them."""
        self._remove_old(out)
        write_text(out / "matrix.json", json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
        write_text(out / "matrix.csv", self.to_csv())
        for target, report in self.reports.items():
            report.write(out / target)
        for k, order in enumerate(self._orders):
            name = "heatmap.png" if k == 0 else f"heatmap-order{order.replace(' ', '-')}.png"
            marks = (partial(_is_pick, k=k), self._is_screened, partial(_is_dropped, k=k))
            self._draw(out / name, f"CSID[{order}]", partial(_csid, k=k), *marks)
        if self._any.rows[0].fd is not None:
            label = self._any.labels["fd"]
            self._draw(out / f"heatmap-{label.split('[')[0].lower()}.png", label, lambda row: row.fd)

    def _remove_old(self, out: Path) -> None:
        for figure in out.glob("heatmap*.png"):
            figure.unlink()
        for document in out.glob("*/neighbors.json"):
            if document.parent.name not in self.reports:
                for name in FILES:
                    (document.parent / name).unlink(missing_ok=True)
                with suppress(OSError):  # something else is in there
                    document.parent.rmdir()

    def _draw(
        self,
        path: Path,
        measure: str,
        value: Callable[[NeighborRow], float | None],
        framed: Callable[[NeighborRow], bool] = lambda row: False,
        screened: Callable[[NeighborRow], bool] = lambda row: False,
        dropped: Callable[[NeighborRow], bool] = lambda row: False,
    ) -> None:
        rows = [[self.row(source, target) for target in self.datasets] for source in self.datasets]

        def cells(holds: Callable[[NeighborRow], bool]) -> list[tuple[int, int]]:
            found = ((i, j, row) for i, line in enumerate(rows) for j, row in enumerate(line))
            return [(i, j) for i, j, row in found if row is not None and holds(row)]

        csid = measure.startswith("CSID")
        mode = f", mode {self._any.protocol['mode']}" if csid else ""
        draw_heatmap(
            path,
            f"{measure} of sources (down) about targets (across)\n{self._any.embedding['label']}{mode}",
            self.datasets,
            self.datasets,
            [[None if row is None else value(row) for row in line] for line in rows],
            framed=cells(framed),
            screened=cells(screened),
            dropped=cells(dropped),
            one_scale=not csid,  # a distance between two sets, the same from either side
        )

    def _is_screened(self, row: NeighborRow) -> bool:
        return self._any.protocol["mode"] != "screen" and not row.measured

    def _by_pair(self, value: Callable[[NeighborRow], Any]) -> dict[str, dict[str, Any]]:
        return {
            source: {target: value(row) for target in self.datasets if (row := self.row(source, target)) is not None}
            for source in self.datasets
        }

    def _cell(self, source: str, target: str) -> str:
        row = self.row(source, target)
        if row is None:
            return "-"
        curve = row.curves[0]
        error = "" if curve.csid_stderr is None else f"±{short(curve.csid_stderr, curve.csid_stderr)}"
        return f"{short(curve.csid, curve.csid_stderr)}{error}{'*' if row.place.friendly else ''}"


def _csid(row: NeighborRow, k: int) -> float:
    return row.curves[k].csid


def _rank(row: NeighborRow, k: int) -> int:
    return row.places[k].rank


def _is_pick(row: NeighborRow, k: int) -> bool:
    return row.places[k].friendly


def _is_dropped(row: NeighborRow, k: int) -> bool:
    return row.places[k].is_dropped


def _csid_json(row: NeighborRow, k: int) -> dict[str, float | None]:
    return {"value": row.curves[k].csid, "stderr": row.curves[k].csid_stderr}
