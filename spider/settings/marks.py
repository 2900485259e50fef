"""The marks of keys that name something outside of a run, and the one walk that finds them.

    path: Annotated[Place, Names("images")]     # a folder, an archive, a URL
    run: Annotated[Place, Names("run")]         # RUN, RUN@best, RUN@KIMG
    file: Annotated[Place | None, Names("file")]

A marked key may change when a run is resumed: what it names may move, and its content is compared. From the mark
follow the check that it is there, its absolute form in config.yaml, its entry in inputs.json, and packed images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic.fields import FieldInfo

from spider.settings.choices import Choice, sections_of
from spider.settings.section import Section

What = Literal["images", "run", "file"]


@dataclass(frozen=True)
class Names:
    """The mark.

    Attributes:
        what: is named. A `file` is a single one, such as of weights.
        once: whether only the start of a run reads it, so that a resumed run does without.
        file_endings: names that end so are of a `file` instead.
        words: stand for something that lies nowhere outside.
    """

    what: What
    once: bool = False
    file_endings: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """What a configuration names under one key."""

    key: str
    place: str
    mark: Names

    @property
    def what(self) -> What:
        """See Names."""
        return "file" if self.mark.file_endings and self.place.endswith(self.mark.file_endings) else self.mark.what


def mark_of(info: FieldInfo) -> Names | None:
    """The mark of a field, if it has one."""
    return next((each for each in info.metadata if isinstance(each, Names)), None)


def is_runtime(info: FieldInfo) -> bool:
    """Whether a key may differ between a run and its resumption."""
    extra = info.json_schema_extra
    return mark_of(info) is not None or (isinstance(extra, dict) and bool(extra.get("runtime")))


def named(config: Section, prefix: str = "", *, unread: bool = False) -> list[Named]:
    """All that a configuration names and its run reads, in the order of the keys.

    Args:
        prefix: of the keys wanted: `source.`.
        unread: also what the run does not read, as other settings stand.
    """
    found = []
    for above, section in sections_of(config):
        passed_over = () if unread else section.unread()
        for name, info in type(section).model_fields.items():
            mark, place = mark_of(info), getattr(section, name)
            if mark is None or not place or place in mark.words or name in passed_over:
                continue
            if f"{above}{name}".startswith(prefix):
                found.append(Named(f"{above}{name}", place, mark))
    return found


def runtime_keys(config: Section) -> set[str]:
    """Every key of a configuration that may differ between a run and its resumption."""
    return {
        f"{above}{name}"
        for above, section in sections_of(config)
        for name, info in type(section).model_fields.items()
        if is_runtime(info)
    }


def kind_that_names(choices: Iterable[type[Choice]], what: What) -> tuple[str, str]:
    """The choice that needs `what`, and the key of it: `("images", "path")`. Raises LookupError."""
    for kind, name, mark in _marked(choices):
        if mark.what == what:
            return kind, name
    raise LookupError(what)


def kinds_that_name_nothing(choices: Iterable[type[Choice]]) -> tuple[str, ...]:
    """The choices whose name says everything."""
    choices = tuple(choices)
    marked = {kind for kind, _, _ in _marked(choices)}
    return tuple(kind for kind in (str(each.model_fields["kind"].default) for each in choices) if kind not in marked)


def _marked(choices: Iterable[type[Choice]]) -> Iterator[tuple[Any, str, Names]]:
    for choice in choices:
        for name, info in choice.model_fields.items():
            mark = mark_of(info)
            if mark is not None:
                yield choice.model_fields["kind"].default, name, mark
