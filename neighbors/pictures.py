"""A sheet to look at: images of the target, of every source that some rule picks first, and of the other picks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from neighbors.report import NeighborReport, NeighborRow
from shards.contact_sheet import Strip, spread, strips_sheet
from shards.files import open_whole
from spider.judge.embed.images import NumberedImages, close_files
from untrusted.counts import counted

_IMAGES = 14  # of each set


def draw_picks(
    path: Path, report: NeighborReport, target: NumberedImages, sources: Mapping[str, NumberedImages]
) -> None:
    """Write the sheet. A person sees at once which of the rules is right."""
    first = report.first_picks()
    rows = [row for row in report.rows if row.source in first or row.place.friendly]
    strips = [_strip(f"target: {report.target}", target)]
    strips += [_strip(_title(row, first.get(row.source, [])), sources[row.source]) for row in rows]
    title = f"{report.target} and its nearest sources, {report.embedding['label']}, rule {report.protocol['rule']}"
    with open_whole(path) as file:
        strips_sheet(title, strips).save(file, "PNG")


def _title(row: NeighborRow, rules: list[str]) -> str:
    pick = f"pick {row.place.rank}" if row.place.friendly else row.place.why
    return f"{row.source}: {pick}" + (f"; first by {', '.join(rules)}" if rules else "")


def _strip(title: str, images: NumberedImages) -> Strip:
    shown = [images.batch(int(i), int(i) + 1)[0].numpy() for i in spread(len(images), _IMAGES)]
    close_files(images)
    return Strip(f"{title} ({counted(len(images), 'image')})", shown)
