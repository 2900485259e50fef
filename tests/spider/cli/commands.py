"""Every command of the application, for laws that hold for all of them."""

from __future__ import annotations

import typer

from spider.cli.main import app

SPIDER = typer.main.get_command(app)


def _leaves(command, path=()):
    children = getattr(command, "commands", None)
    if not children:
        return [(path, command)]
    return [leaf for name, child in children.items() for leaf in _leaves(child, (*path, name))]


COMMANDS = dict(_leaves(SPIDER))  # (words, ...) -> the command, of each that does something
