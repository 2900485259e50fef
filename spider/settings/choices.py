"""Axes of choice that are open: a built-in choice by its name, or a class of the user's own as `module:Class`.

    generator: {kind: dcgan, width: 0.5}            # a choice of this package
    generator: {kind: "mynets:Tiny", channels: 32}  # the settings class Tiny in mynets.py, which Python can import

The name stands in config.yaml, so a resumed run, a job and `spider ls` find the same class. Whoever reads such a
configuration imports the module; modules of Python's own library are refused. See docs/extending.md.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from spider.settings.section import SECTION_ERROR, Section

UNKNOWN_KEY = "unknown_key"  # of settings from outside; the context says which keys they have

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
_LIBRARY = re.compile(r"^<frozen|[/\\]site-packages[/\\]")  # a file which is not the user's
_PLACES = ("builtin", "torchvision")  # of images, which look like modules


class Choice(Section):
    """The settings of one choice on an axis."""

    kind: str


class Choices:
    """The mark of a field that holds one choice of an axis, whose settings are of the annotated base class.

    Attributes:
        built_in: the settings classes of this package. Each has a `kind` of its own, or several.
    """

    def __init__(self, *built_in: type[Choice]) -> None:
        self.built_in = built_in

    def __get_pydantic_core_schema__(self, base: type[Choice], handler: GetCoreSchemaHandler) -> CoreSchema:
        """What pydantic asks: how a value is checked, and written."""
        inside: Any = Annotated[Union[self.built_in], Field(discriminator="kind")] if self.built_in[1:] else None  # noqa: UP007
        inner = handler.generate_schema(inside or (self.built_in or (base,))[0])
        return core_schema.no_info_wrap_validator_function(
            partial(_checked, base, self.built_in), inner, serialization=core_schema.simple_ser_schema("any")
        )


def is_outside(kind: str) -> bool:
    """Whether a name is `module:Class`."""
    return _NAME.fullmatch(kind) is not None and kind.partition(":")[0] not in _PLACES


def load_outside(kind: str, base: type[Choice]) -> type[Choice]:
    """The settings class that `module:Class` names.

    Raises PydanticCustomError: no such module or class, or another kind of class.
    """
    module, _, name = kind.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise _refusal(kind, f"{module} is of Python's own library")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        raise _refusal(kind, _not_imported(module, error)) from None
    if found is None:
        raise _refusal(kind, f"{module} has no {name}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise _refusal(kind, f"{name} is no subclass of {base.__module__}.{base.__name__}")
    for method in ("build", "restored"):
        if method in vars(base) and not overrides(found, base, method):
            raise _refusal(kind, f"{name} has no method {method}")
    for method, asked in vars(base).items():
        if inspect.isfunction(asked) and not method.startswith("_") and overrides(found, base, method):
            _require_same_call(kind, getattr(found, method), asked)
    return found


def overrides(found: type[Choice], base: type[Choice], method: str) -> bool:
    """Whether a settings class has a method of its own in the place of its base's, which only says that it has none."""
    return getattr(found, method) is not getattr(base, method)


def _require_same_call(kind: str, found: Callable[..., Any], asked: Callable[..., Any]) -> None:
    """Raises PydanticCustomError if a method cannot be called as its base's is."""
    parameters = inspect.signature(asked).parameters.values()
    by_name = {each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY}
    in_order = [each.name for each in parameters if each.name not in by_name]
    try:
        inspect.signature(found).bind(*in_order, **by_name)
    except TypeError:
        wanted = ", ".join([*in_order, *([f"*, {', '.join(by_name)}"] if by_name else [])])
        raise _refusal(kind, f"{found.__qualname__} must take ({wanted})") from None


def sections_of(section: Section, prefix: str = "") -> Iterator[tuple[str, Section]]:
    """A section and all sections below it, lists included, with the beginnings of their keys: "augment.0."."""
    yield prefix, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        for key, item in _items(f"{prefix}{name}", value):
            if isinstance(item, Section):
                yield from sections_of(item, f"{key}.")


def outside_packages(tree: Any) -> tuple[str, ...]:
    """The top-level packages or modules of choices that are not built in, of plain data with dotted keys or not."""
    return tuple(dict.fromkeys(kind.partition(":")[0].partition(".")[0] for kind in _kinds(tree) if is_outside(kind)))


def _kinds(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if str(key).rpartition(".")[2] == "kind" and isinstance(value, str):
                yield value
            yield from _kinds(value)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _kinds(item)


def _items(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, tuple):
        return [(f"{key}.{number}", item) for number, item in enumerate(value)]
    return [(key, value)]


def _checked(base: type[Choice], built_in: tuple[type[Choice], ...], value: Any, inside: Callable[[Any], Any]) -> Any:
    if isinstance(value, BaseModel):
        if not isinstance(value, base):
            raise _refusal(type(value).__name__, f"is no {base.__name__}")
        return value
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if isinstance(kind, str) and is_outside(kind):
        return _validated(load_outside(kind, base), kind, value)
    if isinstance(value, Mapping) and not built_in:
        raise _refusal(str(kind), "is no module:Class")
    return inside(value)


def _validated(found: type[Choice], kind: str, value: Mapping[str, Any]) -> Any:
    """The settings. A key that they do not have is refused with those that they have, which only their class knows."""
    known = {name for key, info in found.model_fields.items() for name in (key, info.alias) if name}
    is_closed = found.model_config.get("extra") == "forbid"
    unknown = [name for name in value if isinstance(name, str) and name not in known and is_closed]
    if unknown:
        why = PydanticCustomError(UNKNOWN_KEY, "no such key", {"known": sorted(known - {"kind"}), "kind": kind})
        wrong = [InitErrorDetails(type=why, loc=(name,), input=value[name]) for name in unknown]
        raise ValidationError.from_exception_data(found.__name__, wrong)
    return found.model_validate(value)


def _not_imported(module: str, error: BaseException) -> str:
    """Why: no such module, or what its code raised, with the line of it that did."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module}.".startswith(f"{missing}."):
        return f"cannot import {module} ({what}); is its folder in PYTHONPATH?"
    lines = [
        f" ({frame.filename}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and not _LIBRARY.search(frame.filename)
    ]
    return f"cannot import {module}: {what}{lines[-1] if lines else ''}"


def _refusal(kind: str, why: str) -> PydanticCustomError:
    return PydanticCustomError(SECTION_ERROR, "kind={kind}: {why}", {"kind": kind, "why": why})
