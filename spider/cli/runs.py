"""ls, compare: many runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spider import api
from spider.cli.output import say, say_found, say_json
from spider.tables import aligned
from untrusted.terminal import one_line

if TYPE_CHECKING:
    from spider.runs.listing import RunSummary

commands = typer.Typer()


@commands.command(epilog="\b\nExample:\n  spider ls runs/")
def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", show_default=False, help="Runs are looked for in it and below; default: runs/, or here."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the runs below a folder.

    How far each is, what feeds it, what it is told, what it minimises, its best metric, its size.
    """
    folder = folder or _usual_folder()
    found = api.ls(folder)
    if as_json:
        say_json([summary.as_json() for summary in found])
        return
    if not found:
        say(f"{folder}: no run here or below")
        return
    header = ["run", "state", "kimg", "source", "condition", "objective", "selection", "best", "checkpoint", "MB"]
    say(aligned([header, *map(_row, found)]))
    for summary in found:
        if summary.problem is not None:
            say(f"! {one_line(f'{summary.name}: {summary.problem}')}")
        if summary.failure is not None and summary.state == "failed":
            say(f"! {one_line(f'{summary.name}: failed {summary.failure}')}")


@commands.command(epilog="\b\nExample:\n  spider compare runs/gaussian runs/letters --out metrics.png")
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...|DIR", help="Two runs or more, or a folder of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw metrics, or losses if none were measured, against kimg."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Show in what runs differ.

    Keys, sizes, and metrics at equal numbers of images. Runs that differ in nothing but seed and length share a column.
    """
    found = api.compare(runs)
    if out is not None:
        from spider.judge.compare_figure import draw_comparison

        draw_comparison(found, out)
    say_found(found, as_json=as_json)
    if out is not None and not as_json:
        say(f"look at {out}")


def _usual_folder() -> Path:
    return Path("runs") if Path("runs").is_dir() else Path(".")


def _row(summary: RunSummary) -> list[str]:
    from spider.runs.listing import describe_best

    return [
        summary.name,
        summary.state,
        summary.progress,
        summary.source,
        summary.condition,
        summary.objective,
        summary.selection,
        describe_best(summary.best),
        "-" if summary.last_checkpoint is None else f"{summary.last_checkpoint:g}",
        f"{summary.size_bytes / 1e6:.1f}",
    ]
