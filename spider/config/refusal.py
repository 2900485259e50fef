"""From what pydantic finds wrong with a configuration to one line for the user.

It says where the value came from (an option, an override, else the file or the preset), the key, what was found and
what would be valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from spider.config.explain import (
    choice_names,
    choice_of,
    description_of,
    kinds_with,
    may_be_auto,
    open_axes,
    similar_keys,
)
from spider.config.options import how_to_give
from spider.config.schema import Config
from spider.errors import shown
from spider.gan.networks.config import NetworkChoice
from spider.settings.choices import UNKNOWN_KEY
from spider.settings.section import SECTION_ERROR
from untrusted.counts import counted
from untrusted.words import did_you_mean, hint, similar

_NUMBER = re.compile(r"\.\d+")  # of a member of a list
_LONGEST = 80  # letters of an override in an error


@dataclass(frozen=True)
class Override:
    """A value that somebody gave one key.

    Attributes:
        said: as what: `batch=8`, `--seed 3`.
    """

    key: str
    value: Any
    said: str

    def __str__(self) -> str:
        text = " ".join(self.said.split())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@dataclass(frozen=True)
class _Wrong:
    """One thing that is wrong: `key: message`, or the message alone where it names the keys itself."""

    key: str
    message: str
    found: str = ""  # ", found 3"; an override says it already
    names_keys: bool = False
    needed_by: str = ""  # of a key that is missing: the one that asks for it

    def line(self, where: str, overrides: Sequence[Override]) -> str:
        said = next((each for each in reversed(overrides) if self._comes_from(each)), None)
        if said is not None and said.key == self.key and not self.names_keys:
            return f"{said}: {self.message}"
        message = self.message if self.names_keys else f"{self.key}: {self.message}{self.found}"
        if said is None:
            return f"{where}: {message}"
        says_it = self.names_keys and (not self.key or message.startswith(f"{said}: "))
        return message if says_it else f"{said}: {message}"

    def _comes_from(self, override: Override) -> bool:
        if not self.key:  # how several keys go together: the message has them, with their values
            return re.search(rf"(?<![\w.]){re.escape(override.key)}(?![\w.])", self.message) is not None
        return (
            override.key in (self.key, self.needed_by)
            or self.key.startswith(f"{override.key}.")
            or override.key.startswith(f"{self.key}.")
        )


def refusal(error: ValidationError, where: str, overrides: Sequence[Override]) -> str:
    """All that is wrong, in one line.

    Args:
        where: the values come from that no override gave: a file, a preset.
    """
    return "; ".join(_wrong(detail).line(where, overrides) for detail in error.errors())


# In the words of YAML
_SHAPES = {
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list, [..., ...]"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a section, {key: value}"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
}
_BOUNDS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
_NUMBERS = ("int_type", "int_parsing", "float_type", "float_parsing")
_EXACT = 1_000_000  # `:g` writes greater numbers with an exponent, and leaves digits out


def _wrong(detail: Mapping[str, Any]) -> _Wrong:
    key, kind, found = ".".join(_without_tags(detail["loc"])), detail["type"], detail["input"]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if kind in ("extra_forbidden", UNKNOWN_KEY):
        section, kinds = key.rpartition(".")[0], kinds_with(key)
        if kinds:
            smaller = _smaller_by(section, key, detail["loc"], kinds)
            return _Wrong(key, f"{key} goes with {section}.kind={' or '.join(kinds)}{smaller}", names_keys=True)
        if kind == UNKNOWN_KEY:
            return _Wrong(key, f"no such key{_meant(key, detail['ctx'])}")
        return _Wrong(key, f"no such key{hint(similar_keys(key))}")
    if kind == "missing":
        needed_by = f"{key.rpartition('.')[0]}.kind"
        what = "; ".join(filter(None, [description_of(key, detail["loc"]), f"spider config explain {key}"]))
        return _Wrong(key, f"missing; give {how_to_give(key)} ({what})", needed_by=needed_by)
    if kind == "value_error":
        return _Wrong(key, message, names_keys=True)
    if kind == SECTION_ERROR:
        own = ".".join(_without_tags([*detail["loc"], detail["ctx"].get("name", "kind")]))
        section = own.rpartition(".")[0]
        return _Wrong(own, ".".join(filter(None, [section, message])), names_keys=True)
    if kind.startswith("union_tag"):
        tag = found.get("kind") if isinstance(found, Mapping) else found
        return _one_of(f"{key}.kind", tag, detail["ctx"].get("expected_tags", ""))
    if kind == "literal_error":
        return _one_of(key, found, detail["ctx"]["expected"])
    is_name = isinstance(found, str) and key.rpartition(".")[2].isdigit() and _is_open(f"{key}.kind")
    if is_name and kind in ("model_type", "model_attributes_type", "dict_type"):
        return _Wrong(key, must_be(detail), f", found {shown(found)}: write {{kind: {shown(found)}}}")
    close = did_you_mean(found, ["auto"]) if isinstance(found, str) else ""
    auto = f" or auto{close}" if kind in _NUMBERS and may_be_auto(key) else ""
    return _Wrong(key, must_be(detail) + auto, f", found {shown(found)}")


def _smaller_by(section: str, key: str, location: Sequence[Any], kinds: Sequence[str]) -> str:
    """Of a key that makes another kind of network smaller: which keys do that here."""
    found, *others = (choice_of(section, kind) for kind in (str(location[min(1, len(location) - 1)]), *kinds))
    here = found.shrunk_by if found is not None and issubclass(found, NetworkChoice) else ()
    name = key.rpartition(".")[2]
    if not here or not any(name in each.shrunk_by for each in others if each and issubclass(each, NetworkChoice)):
        return ""
    return f"; {section}.kind={location[1]} is made smaller by {', '.join(f'{section}.{each}' for each in here)}"


def must_be(detail: Mapping[str, Any]) -> str:
    """`must be a whole number`, `must be >= 1`: what pydantic asks of one value, in the words of this project."""
    kind = detail["type"]
    if kind in _BOUNDS:
        sign, name = _BOUNDS[kind]
        return f"must be {sign} {_in_digits(detail['ctx'][name])}"
    if kind in _LENGTHS:
        words, name = _LENGTHS[kind]
        return f"must have {words} {counted(detail['ctx'][name], 'entry', 'entries')}"
    message = _SHAPES.get(kind, str(detail["msg"]).removeprefix("Value error, "))
    return f"{message[0].lower()}{message[1:]}"


def _in_digits(number: float) -> str:
    """`0.001`, `4096`, `1,000,000,000`."""
    return f"{number:,.0f}" if abs(number) >= _EXACT and number == int(number) else f"{number:g}"


def _one_of(key: str, found: Any, expected: str) -> _Wrong:
    """Of a few names, which pydantic lists as `'a', 'b' or 'c'`."""
    names = re.findall(r"'([^']*)'", expected)
    close = did_you_mean(found, names) if isinstance(found, str) else ""
    own = ", or module:Class, a class of your own" if _is_open(key) else ""
    return _Wrong(key, f"found {shown(found)}, allowed: {', '.join(names)}{own}{close}")


def _is_open(key: str) -> bool:
    """Whether the key names the choice of an axis that takes classes from outside."""
    axis, _, last = _NUMBER.sub("", key).rpartition(".")
    return last == "kind" and axis in open_axes()


def _meant(key: str, context: Mapping[str, Any]) -> str:
    """After a key that settings from outside do not have: the one that is spelt alike, else all of them."""
    section, _, name = key.rpartition(".")
    close = [f"{section}.{each}" for each in similar(name, context["known"])]
    return hint(close) or f"; {context['kind']} has {', '.join(context['known']) or 'no keys'}"


def _without_tags(location: Iterable[Any]) -> Iterator[str]:
    """pydantic puts the tag of a union into the path of what is wrong inside it; users know no such key.

    Nor do they know what follows the name of an entry that may not have this name: `[key]` and a type.
    """
    parts = list(takewhile(lambda part: part != "[key]", map(str, location)))
    for position, part in enumerate(parts):
        before = parts[position - 1] if position else ""
        below = position + 1 < len(parts)
        if below and part in choice_names() and (before.isdigit() or before in Config.model_fields):
            continue
        if part in ("number", "schedule"):
            continue
        yield part
