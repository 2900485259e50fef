"""The words of a command line, before any option is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from spider.cli.usage import option_names
from spider.errors import SpiderUsageError

_SETS_KEYS = "[KEY=VALUE]"  # in the metavar of an argument
_UNSET = "is a variable of the shell not set?"
_MOST_NAMED = 3  # of several keys with the same last part


def check_words(command: Any, words: Sequence[str]) -> None:
    """Refuse words that the parser would take for something else than what was meant.

    Args:
        command: click's, whose words these are; of a group, the command that they name is looked for.

    Raises:
        SpiderUsageError: names the option: a value is empty or is the next option, as of a variable of the shell that
            is not set; or the option is a key of the configuration.
    """
    path = f"spider {command.name}"
    while words and words[0] in getattr(command, "commands", ()):
        command, words = command.commands[words[0]], words[1:]
        path = f"{path} {command.name}"
    _refuse_misread_values(command, words, path)
    _refuse_empty(command, words, path)
    if any(_SETS_KEYS in (each.metavar or "") for each in command.params):
        _refuse_keys(command, words)


def _refuse_misread_values(command: Any, words: Sequence[str], path: str) -> None:
    """An option without a value, or whose value is the next option: `--data $UNSET --run DIR` is `--data --run DIR`."""
    known, flags = set(option_names(command)), _flags(command)
    for word in _options(command, words):
        if word.name not in known:
            continue
        if word.name in flags:
            if word.joined:
                raise SpiderUsageError(f"{word.name}: takes no value, found {word.value!r}; see {path} --help")
        elif word.value is None:
            raise SpiderUsageError(f"{word.name}: no value follows; {_UNSET} (see {path} --help)")
        elif not word.joined and word.value.partition("=")[0] in known:
            raise SpiderUsageError(
                f"{word.name}: is followed by {word.value}; {_UNSET} ({word.name}={word.value}, if that is the value)"
            )


def _refuse_empty(command: Any, words: Sequence[str], path: str) -> None:
    """A word that is empty or blank would mean, as a path, the current folder; no option takes it for anything else."""
    flags = _flags(command)
    for before, word in pairwise(["", *words]):
        option, equals, value = word.partition("=")
        joined = bool(equals) and option.startswith("-")
        if (value if joined else word).strip():
            continue
        follows = before.startswith("-") and before not in flags
        name = option if joined else before if follows else f"an argument of {path}"
        raise SpiderUsageError(
            f"{name}: is empty; {_UNSET} (. is the current folder; left out, an option has its default)"
        )


def _refuse_keys(command: Any, words: Sequence[str]) -> None:
    """A key of the configuration that is written as an option: `--batch=50`, `--lr 1e-3`."""
    known = option_names(command)
    for word in _options(command, words):
        if word.name in known or not word.name.startswith("--"):
            continue
        from spider.config.explain import keys_called

        key = word.name.removeprefix("--").replace("-", "_")
        meant = keys_called(key)
        if meant:
            names = meant if len(meant) <= _MOST_NAMED else [f"SECTION.{key}"]
            write = " or ".join(f"{name}={'VALUE' if word.value is None else word.value}" for name in names)
            raise SpiderUsageError(f"{word.name}: is a key of the configuration, not an option; write {write}")


@dataclass(frozen=True)
class _Option:
    """One option that was typed, and the word that the parser may take for its value.

    Attributes:
        joined: by `=`.
    """

    name: str
    value: str | None
    joined: bool = False


def _options(command: Any, words: Sequence[str]) -> Iterator[_Option]:
    """The options that were typed. The value of an option is none, nor is a word after `--`."""
    flags, known = _flags(command), set(option_names(command))
    rest = iter(range(len(words)))
    for position in rest:
        name, equals, value = words[position].partition("=")
        if name == "--":
            return
        if not name.startswith("-") or name == "-":
            continue
        if equals:
            yield _Option(name, value, joined=True)
        elif name in flags or position + 1 == len(words):
            yield _Option(name, None)
        elif name in known:
            yield _Option(name, words[next(rest)])
        else:
            after = words[position + 1]
            yield _Option(name, None if after.startswith("--") else after)


def _flags(command: Any) -> set[str]:
    """The options that take no value."""
    named = [each for each in command.params if getattr(each, "is_flag", False)]
    return {"--help", "-h", *(name for each in named for name in (*each.opts, *each.secondary_opts))}
