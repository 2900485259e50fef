"""Plain data to a known type: what a program wrote is checked when it comes back, because files get damaged."""

from __future__ import annotations

import reprlib
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from untrusted.errors import UnreadableError

T = TypeVar("T")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60
_repr.maxlevel = _repr.maxlist = _repr.maxtuple = _repr.maxdict = 2


def checked(value: Any, kind: type[T], where: str) -> T:
    """`value` as a `kind`: a dataclass, a TypedDict, or what pydantic knows besides.

    Raises UnreadableError: `where`, the key, what it must be, and what was found.
    """
    try:
        found: T = _adapter(cast(Any, kind)).validate_python(value)
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f"{part}: " for part in (".".join(str(part) for part in first["loc"]),) if part)
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        found_text = "" if first["type"] == "missing" else f", found {_repr.repr(first['input'])}"
        raise UnreadableError(f"{where}: {key}{message}{found_text}") from None


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
