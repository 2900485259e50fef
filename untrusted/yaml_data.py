"""YAML to plain data, and back: mappings, lists, text, numbers. A tag that stands for anything else is refused.

PyYAML by itself bounds nothing. A few hundred bytes of aliases to aliases stand for more data than any machine holds,
a few thousand brackets end in a RecursionError, and of a key that stands twice the last value wins without a word.

Plain words are typed by the core schema of YAML 1.2, as people mean them. YAML 1.1, which PyYAML knows, reads 010 as 8,
12:30 as 750, 1e-4 and 1.e5 as text, `no` as false, and 2001-01-01 as a date. Here 010 is 10, 0o10 is 8, 1e-4 is a
number, and the other three are text, as is whatever stands in quotes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.terminal import one_line
from untrusted.text import decode

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 50_000  # with every alias written out

# https://yaml.org/spec/1.2.2/#1032-tag-resolution: the tag, how a plain word of it is written, and how that begins
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),  # of YAML 1.1, and in use
)
_MAX_DIGITS = 30  # of an integer; 64 bits have 20

_STANDARD = "tag:yaml.org,2002:"  # written !!
_TAGS = {_STANDARD + name for name in ("str", "seq", "map", *(name for name, _, _ in _CORE_SCHEMA))}

# What PyYAML's constructors raise for a value that does not fit its tag, as !!int x
_BAD_VALUES = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class _Limits(yaml.parser.Parser, yaml.composer.Composer):
    """Counts what a document stands for while it is composed, before anything is built from it."""

    def compose_document(self) -> yaml.Node | None:
        self._sizes: dict[int, tuple[int, int]] = {}  # by id of a composed node: nodes and levels, aliases written out
        self._depth = 0
        return super().compose_document()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        self._require(self._depth <= MAX_DEPTH, f"nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if node.tag not in _TAGS:
            name = node.tag.replace(_STANDARD, "!!") if node.tag.startswith(_STANDARD) else node.tag
            self._require(False, f"the tag {name} is not read", event)
        if isinstance(event, yaml.AliasEvent):
            self._require(id(node) in self._sizes, f"*{event.anchor} stands within what it names", event)
        else:
            self._sizes[id(node)] = self._size(node)
        nodes, levels = self._sizes[id(node)]
        self._require(nodes <= MAX_NODES, f"stands for more than {MAX_NODES:,} values", event)
        self._require(self._depth + levels <= MAX_DEPTH, f"nested deeper than {MAX_DEPTH} levels", event)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.MappingNode):
            below = [each for pair in node.value for each in pair]
            _require_each_key_once(node)
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        else:
            return 1, 1
        sizes = [self._sizes[id(each)] for each in below]
        return 1 + sum(nodes for nodes, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)

    @staticmethod
    def _require(holds: bool, what: str, event: yaml.Event) -> None:
        if not holds:
            raise yaml.composer.ComposerError(problem=what, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _require_each_key_once(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.composer.ComposerError(None, None, "a key is a list or a mapping", key.start_mark)
        if (key.tag, key.value) in seen:
            raise yaml.composer.ComposerError(None, None, f"{key.value} stands there twice", key.start_mark)
        seen.add((key.tag, key.value))


class _Typed(_Limits, yaml.SafeLoader):
    """Values as the core schema of YAML 1.2 types them."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if not text.startswith(("0o", "0x")) and len(text) > _MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"an integer of {len(text)} digits; at most {_MAX_DIGITS} are read", node.start_mark
            )
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node)).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
            raise yaml.constructor.ConstructorError(None, None, "an escape that is no character", node.start_mark)
        return value


_Typed.yaml_implicit_resolvers = {}  # without those of YAML 1.1
_Typed.add_constructor(_STANDARD + "int", _Typed.construct_yaml_int)
_Typed.add_constructor(_STANDARD + "float", _Typed.construct_yaml_float)


class _Writer(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else."""


for _tag, _pattern, _first in _CORE_SCHEMA:
    for _class in (_Typed, _Writer):
        _class.add_implicit_resolver(_STANDARD + _tag, re.compile(f"(?:{_pattern})\\Z"), _first)


class _AllText(_Limits, yaml.BaseLoader):
    """Every value as it is written."""


def parse_yaml(text: str, where: str, *, all_text: bool = False) -> Any:
    """Plain data.

    Args:
        where: what errors call the text: the file's name.
        all_text: leave every value as it is written, because 007 is the name of a node and not the number 7.

    Raises:
        UnreadableError: it is no YAML, a tag stands for no plain data, a key stands twice, an integer does not fit
            64 bits, or it is larger, deeper or stands for more than the limits above.
    """
    if len(text) > MAX_BYTES:
        raise UnreadableError(f"{where}: has more than {MAX_BYTES:,} characters, which is the most that is read")
    try:
        tree = yaml.load(text, Loader=_AllText if all_text else _Typed)
    except yaml.YAMLError as error:
        raise UnreadableError(f"{where}: not plain YAML: {_why(error)}") from None
    except _BAD_VALUES as error:
        raise UnreadableError(f"{where}: not plain YAML: a value that cannot be: {error}") from None
    _require_bounded_integers(tree, where)
    return tree


def read_yaml(path: Path, *, all_text: bool = False) -> Any:
    """`parse_yaml` of a file; OSError if it is not there or cannot be read."""
    return parse_yaml(decode(read_regular(path, MAX_BYTES), str(path)), str(path), all_text=all_text)


def to_yaml(tree: Any) -> str:
    """Plain data as text, in the order of its keys, which `parse_yaml` reads back."""
    text: str = yaml.dump(tree, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=120)
    return text


def _why(error: yaml.YAMLError) -> str:
    """What is wrong, and in which line, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    context = f"{error.context}, " if str(error.problem).startswith("but ") else ""
    return one_line(f"{context}{error.problem}{'' if mark is None else f' in line {mark.line + 1}'}")


def _require_bounded_integers(value: Any, where: str) -> None:
    """No calculation expects more, and Python does not even print an integer of 5,000 digits."""
    if isinstance(value, dict):
        for key, item in value.items():
            _require_bounded_integers(key, where)
            _require_bounded_integers(item, where)
    elif isinstance(value, list):
        for item in value:
            _require_bounded_integers(item, where)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise UnreadableError(f"{where}: an integer of {value.bit_length()} bits; at most 64 are read")
