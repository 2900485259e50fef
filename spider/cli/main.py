"""The application: every command under one name, and what becomes of what goes wrong.

exit code   0   done
            1   what was asked for rightly failed, or (verify) is bad: one line, `error: ...`
            2   what was asked for cannot be: one line
            3   the machine failed, not the request (a full disk, a lost rank): the same command may go well later
          130   interrupted, also a training that was stopped and saved before its length

A traceback means a mistake in the program, never one of its user.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.errors import ClusterError
from shards.errors import ShardsError
from spider.cli import (
    classes,
    exchange,
    images,
    instances,
    judging,
    launch,
    neighbors,
    projecting,
    runs,
    story,
    studies,
    sweeps,
    training,
    weights,
)
from spider.cli.disk import described as of_disk
from spider.cli.output import complain
from spider.cli.usage import EXIT_CODE, USAGE_ERROR, asks_for_help, described
from spider.cli.words import check_words
from spider.errors import SpiderError
from spider.version import VERSION
from untrusted.errors import UnreadableError
from untrusted.terminal import guarded, occupy_closed_streams

INTERRUPTED = 130


class _Commands(TyperGroup):
    """A group in which errors meant for users end the program with one line, and printing ends nothing."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with guarded() as (stdout, _):
            if not kwargs.get("standalone_mode", True):
                return super().main(*args, **kwargs)
            try:
                code = super().main(*args, **{**kwargs, "standalone_mode": False}) or 0
            except USAGE_ERROR as error:
                code = _refused(error)
            stdout.flush()
            refusal = stdout.refusal
            # Whoever closes a pipe has read enough; an answer that a full disk swallowed is missing
            if not code and refusal is not None and refusal.errno != errno.EPIPE:
                line, code = of_disk(refusal) or (refusal.strerror, SpiderError.exit_code)
                complain(f"stdout: {line}")
            sys.exit(code)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, words = super().resolve_command(ctx, args)
        if command is not None:
            check_words(command, words)
        return name, command, words

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (SpiderError, ShardsError, ClusterError, UnreadableError) as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            told = of_disk(error)
            if told is None:
                raise
            complain(told[0])
            raise typer.Exit(told[1]) from None
        except KeyboardInterrupt as stop:
            print(": ".join(["interrupted", *map(str, stop.args)]), file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


def _refused(error: Any) -> int:
    """Say what the parser refuses, and return the exit code."""
    if asks_for_help(error):
        error.show()
    else:
        complain(described(error))
    return EXIT_CODE


app = typer.Typer(
    cls=_Commands,
    help="Train GANs fed by friendly neighbours, and other data-efficient GANs.",
    epilog="\b\nExample:\n  spider demo --out runs/demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich takes longer to import than --help to answer
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spider {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


for group in (
    images,
    neighbors,
    instances,
    classes,
    training,
    launch,
    judging,
    projecting,
    runs,
    sweeps,
    studies,
    exchange,
    weights,
    story,
):
    app.add_typer(group.commands)


def main() -> None:
    """The console script `spider`, and `python -m spider`."""
    occupy_closed_streams()
    app(prog_name="spider")
