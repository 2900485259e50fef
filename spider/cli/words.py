"""The words of a command line, before any option is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from spider.errors import SpiderUsageError


def refuse_empty(command: Any, words: Sequence[str]) -> None:
    """Refuse a word that is empty or blank: a variable of the shell that is not set.

    As a path it would mean the current folder, and no option takes it for anything else.

    Args:
        command: click's, whose words these are.

    Raises:
        SpiderUsageError: names the option.
    """
    flags = {
        option for parameter in command.params if getattr(parameter, "is_flag", False) for option in parameter.opts
    }
    for before, word in pairwise(["", *words]):
        option, equals, value = word.partition("=")
        joined = bool(equals) and option.startswith("-")
        if (value if joined else word).strip():
            continue
        follows = before.startswith("-") and before not in flags
        name = option if joined else before if follows else f"an argument of spider {command.name}"
        raise SpiderUsageError(
            f"{name}: is empty; is a variable of the shell not set? (. is the current folder; left out, "
            "an option has its default)"
        )
