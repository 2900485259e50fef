"""JSON to plain data, as RFC 8259 has it: no NaN, no Infinity, each key once, and nothing that later work chokes on."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.text import decode

MAX_BYTES = 64 << 20
MAX_DEPTH = 64

_MAX_DIGITS = 30  # of an integer: every 64-bit number has them, and every sum of such numbers
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(content: bytes | str, where: str) -> Any:
    """Plain data.

    Args:
        where: what errors call it: the file's name, and the row where there are rows.

    Raises:
        UnreadableError: it is no JSON, or holds a number, a key or a depth that is refused.
    """
    text = decode(content, where) if isinstance(content, bytes) else content
    try:
        value = json.loads(
            text, parse_constant=_no_number, parse_int=_integer, parse_float=_finite, object_pairs_hook=_object
        )
    except RecursionError:
        raise UnreadableError(f"{where}: not JSON: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise UnreadableError(f"{where}: not JSON: {error}") from None
    may_be_deep = text.count("[") + text.count("{") > MAX_DEPTH
    if may_be_deep or "\\u" in text:
        _check(value, where)
    return value


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """`parse_json` of a file; OSError if it is not there or cannot be read."""
    return parse_json(read_regular(path, max_bytes), str(path))


def _check(value: Any, where: str, depth: int = 1) -> None:
    """Refuse what the parser has no hook for."""
    if depth > MAX_DEPTH:
        raise UnreadableError(f"{where}: not JSON: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str) and (_SURROGATE.search(value) or "\0" in value):
        raise UnreadableError(f"{where}: not JSON: an escape that is no character")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, where, depth)
            _check(item, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, where, depth + 1)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits; at most {_MAX_DIGITS} are read")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:_MAX_DIGITS]} is beyond the range of numbers")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found
