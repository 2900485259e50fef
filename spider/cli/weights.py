"""weights list, get, verify: the pretrained networks that embeddings and metrics need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spider import api
from spider.cli.output import is_main_process, say, say_json
from spider.tables import aligned

if TYPE_CHECKING:
    from spider.weights import WeightsFile

commands = typer.Typer()
weights_commands = typer.Typer(no_args_is_help=True)
commands.add_typer(weights_commands, name="weights", help="Fetch and check pretrained networks.")

_NAME = Annotated[str, typer.Argument(metavar="NAME", help="As in spider weights list.")]


@weights_commands.command("list", epilog="\b\nExample:\n  spider weights list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List what there is, and what of it this machine has.

    Those of state `by file` are not kept in the cache: fetch them, and name the file by --weights.
    """
    found = api.weights.list_weights()
    if as_json:
        entries = [
            {
                "name": f.weights.name,
                "reader": f.weights.reader,
                "state": f.state,
                "path": str(f.path),
                "url": f.weights.url or None,
                "package": f.weights.package and f.weights.package.distribution,
                "sha256": f.weights.sha256 or None,
                "licence": f.weights.licence,
                "mb": f.weights.size_mb,
            }
            for f in found
        ]
        say_json(entries)
        return
    rows = [
        [w.name, state, str(w.size_mb), w.licence, w.sha256[:12] or "not known", w.reader, w.what]
        for w, state in ((f.weights, f.state) for f in found)
    ]
    places = [[f"{f.weights.name}:", _origin(f), "" if f.state == "by file" else f"at {f.path}"] for f in found]
    header = ["name", "state", "MB", "licence", "sha256", "read by", "for"]
    say(f"{aligned([header, *rows])}\n\n{aligned(places)}")


def _origin(found: WeightsFile) -> str:
    weights = found.weights
    return f"from {weights.url}" if weights.package is None else f"of the package {weights.package.distribution}"


@weights_commands.command(epilog="\b\nExample:\n  spider weights get inception")
def get(
    name: _NAME,
    url: Annotated[str | None, typer.Option(metavar="URL", help="A mirror; the digest must be the same.")] = None,
) -> None:
    """Fetch a file into the cache.

    Needs a network, unless the file is there and whole, or comes with an installed package.
    """
    path = api.weights.get(name, url=url, progress=is_main_process())
    say(f"{name}: {path}")


@weights_commands.command(epilog="\b\nExample:\n  spider weights verify inception")
def verify(name: _NAME) -> None:
    """Check a file of the cache, or of its package.

    Ends with exit code 1 if it is missing or damaged.
    """
    path = api.weights.verify(name)
    say(f"{name}: {path}: whole")
