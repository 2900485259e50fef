"""What a key of the configuration means: type, default, limits, and whether it may change when a run is resumed."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined

from spider.config.schema import Config
from spider.errors import SpiderUsageError
from spider.settings.choices import Choice, Choices, is_outside, load_outside
from spider.settings.marks import is_runtime, mark_of
from spider.settings.schedule import Moving
from untrusted.words import hint, similar

ANY = "N"  # in the name of a key: any member of a list
_MEMBER = re.compile(r"\.\d+\.")
_LIMITS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "multiple of"))


@dataclass(frozen=True)
class Key:
    """One key: where it stands, and what may stand there.

    Attributes:
        default: empty for the name of a choice that is not the default one.
    """

    name: str
    type: str
    default: str
    description: str
    runtime: bool
    kind: str | None = None  # the choice of a union that has this key
    names_place: bool = False  # whether it names a file, a folder or a run


def all_keys() -> list[str]:
    """Every dotted key that some configuration may hold."""
    return list(dict.fromkeys(key.name for key in _table()))


def place_keys() -> list[str]:
    """Every dotted key that names a file, a folder or a run, of the choices of this package."""
    return [key.name for key in _table() if key.names_place]


@cache
def choice_names() -> frozenset[str]:
    """The names of all choices of this package."""
    return frozenset(key.kind for key in _table() if key.kind is not None)


@cache
def open_axes() -> frozenset[str]:
    """The keys of sections, and of lists of sections, that also take a class from outside."""
    return frozenset(
        name
        for name, info in Config.model_fields.items()
        for part in (info, *get_args(info.annotation))
        if any(isinstance(mark, Choices) for mark in getattr(part, "metadata", getattr(part, "__metadata__", ())))
    )


def choice_of(axis: str, kind: str) -> type[Choice] | None:
    """The settings class of a choice of this package on an axis, such as `generator`; None: there is none."""
    info = Config.model_fields.get(axis)
    arms = () if info is None else (arm for each in info.metadata if isinstance(each, Choices) for arm in each.built_in)
    return next((arm for arm in arms if arm.model_fields["kind"].default == kind), None)


def kinds_with(name: str) -> list[str]:
    """The choices of a section that have a key of this name."""
    name = _MEMBER.sub(f".{ANY}.", name)
    return [key.kind for key in _table() if key.name == name and key.kind is not None]


def may_be_auto(name: str) -> bool:
    """Whether `auto` is a value of a key."""
    name = _MEMBER.sub(f".{ANY}.", name)
    return any(key.name == name and re.search(r"\bauto\b", key.type) for key in _table())


def similar_keys(name: str) -> list[str]:
    """What may have been meant by a key that does not exist: those of the same last part, else those spelt alike."""
    keys = all_keys()
    place = _MEMBER.search(name)
    if place is not None:
        keys = [key.replace(f".{ANY}.", place[0]) for key in keys]
    last = name.rpartition(".")[2]
    sections = dict.fromkeys(key.rpartition(".")[0] for key in keys if "." in key)
    same = [key for key in keys if key.rpartition(".")[2] == last]
    return same or similar(name, [*keys, *sections])


def keys_called(name: str) -> list[str]:
    """The key of this name; else the `kind` of the section of this name; else every key whose last part it is."""
    keys = all_keys()
    for exact in (name, f"{name}.kind"):
        if _MEMBER.sub(f".{ANY}.", exact) in keys:
            return [exact]
    return [key for key in keys if key.rpartition(".")[2] == name]


def explain(name: str) -> list[Key]:
    """The key called `name`, or every key of the section called `name`; "" is all. Raises SpiderUsageError.

    `N` stands for the number of a member of a list, from 0. `module:Class`, a class from outside, has keys without the
    section that it stands in.
    """
    if is_outside(name):
        return _of_outside(name)
    name = _MEMBER.sub(f".{ANY}.", name)
    found = [key for key in _table() if not name or key.name == name or key.name.startswith(f"{name}.")]
    if not found:
        raise SpiderUsageError(f"{name}: no such key{hint(similar_keys(name))}")
    return found


def description_of(name: str, kinds: Collection[object]) -> str:
    """What a key is, where it is of one of these kinds or of all; "" if nobody knows."""
    name = _MEMBER.sub(f".{ANY}.", name)
    keys = (key for key in _table() if key.name == name and (key.kind is None or key.kind in kinds))
    return next((key.description for key in keys), "")


def _of_outside(kind: str) -> list[Key]:
    try:
        return list(_walk(load_outside(kind, Choice), "", None))
    except PydanticCustomError as error:
        raise SpiderUsageError(error.message()) from None


@cache
def _table() -> tuple[Key, ...]:
    return tuple(_walk(Config, "", None))


def _walk(model: type[BaseModel], prefix: str, kind: str | None) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        arms = [arm for arm in _arms(info.annotation) if arm is not Moving]  # a value, though written as a section
        choices = [arm for each in info.metadata if isinstance(each, Choices) for arm in each.built_in]
        sections = choices or _sections(arms)
        members = _sections(arm for each in arms for arm in _members(each))
        if members:
            yield _key(f"{prefix}{name}", info, kind, info.description or "")
        for below, found in ((f"{prefix}{name}.", sections), (f"{prefix}{name}.{ANY}.", members)):
            for section in found:
                is_choice = "kind" in section.model_fields and len(found) > 1
                chosen = section.model_fields["kind"].default if is_choice else kind
                for key in _walk(section, below, chosen):
                    names_choice = is_choice and key.name == f"{below}kind"
                    yield replace(key, default="") if names_choice and not _is_default(info, chosen) else key
        if not sections and not members:
            # The name of a choice means what the choice is, and that its section says
            yield _key(f"{prefix}{name}", info, kind, info.description or inspect.cleandoc(model.__doc__ or ""))


def _is_default(info: FieldInfo, kind: str | None) -> bool:
    """Whether the choice of that name is what a section is by default."""
    return getattr(info.get_default(call_default_factory=True, validated_data={}), "kind", None) == kind


def _key(name: str, info: FieldInfo, kind: str | None, description: str) -> Key:
    limits = " ".join(f"{sign} {bound}" for sign, bound in _limits(info))
    default = "(required)" if info.default is PydanticUndefined else as_yaml(info.default)
    return Key(
        name=name,
        type=f"{_type_name(info.annotation)}{f' {limits}' if limits else ''}",
        default=default,
        description=description,
        runtime=is_runtime(info),
        kind=kind,
        names_place=mark_of(info) is not None,
    )


def _limits(info: FieldInfo) -> Iterator[tuple[str, Any]]:
    for constraint in [*info.metadata, *_marks_within(info.annotation)]:
        for attribute, sign in _LIMITS:
            bound = getattr(constraint, attribute, None)
            if bound is not None:
                yield sign, bound


def _marks_within(annotation: Any) -> Iterator[Any]:
    """Of an arm of a union, or of a member of a list, which may have limits of its own."""
    for part in get_args(annotation) if get_origin(annotation) is not Literal else ():
        for mark in getattr(part, "__metadata__", ()):
            yield from mark.metadata if isinstance(mark, FieldInfo) else (mark,)
        yield from _marks_within(part)


def _sections(arms: Iterable[Any]) -> list[type[BaseModel]]:
    return [arm for arm in arms if isinstance(arm, type) and issubclass(arm, BaseModel)]


def _members(annotation: Any) -> tuple[Any, ...]:
    """What a list may hold."""
    return _arms(get_args(annotation)[0]) if get_origin(annotation) is tuple else ()


def _arms(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        choices = [arm for mark in marks if isinstance(mark, Choices) for arm in mark.built_in]
        return tuple(choices) or _arms(inner)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(arm for part in get_args(annotation) for arm in _arms(part))
    return (annotation,)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        members = _sections(_members(annotation))
        return "list of sections" if members else f"list of {_type_name(get_args(annotation)[0])}"
    arms = _arms(annotation)
    if Moving in arms:
        words = [str(word) for arm in arms if get_origin(arm) is Literal for word in get_args(arm)]
        return f"number, schedule or {' or '.join(words)}" if words else "number or schedule"
    if len(arms) > 1:
        return " | ".join("null" if arm is type(None) else _type_name(arm) for arm in arms)
    return str(getattr(annotation, "__name__", annotation))


def as_yaml(value: Any) -> str:
    """Plain data as one writes it on one line: `null`, `true`, `[1, 2]`, `{kind: ada}`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    return str(value) if value != "" else '""'
