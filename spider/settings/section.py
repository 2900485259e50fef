"""The base of every configuration model, and the mark of the keys that may change when a run is resumed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from untrusted.terminal import one_line

if TYPE_CHECKING:
    from spider.config.schema import Config

# Beyond these a value is a slip of the hand, and would overflow or end the memory somewhere far from its key
MAX_BATCH = 1_000_000
MAX_KIMG = 1e9
MAX_STEPS = 1_000_000_000
MAX_MINUTES = 1e6
MAX_SCHEDULE = 10_000  # values of one
MAX_RATE = 1e18  # of learning: what no network survives, and float32 holds
MAX_FACTOR = 1e9  # of what is multiplied with float32
MAX_WIDTH = 8.0
MAX_DIM = 1_000_000

SECTION_ERROR = "section"  # of a value that no key of its kind may have; it is of the section, and names the key

_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Section(BaseModel):
    """A part of the configuration: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _text_is_printable(cls, given: Any) -> Any:
        """A text is printed and written to config.yaml, which cannot hold such letters."""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            letter = _NOT_PRINTABLE.search(value) if isinstance(value, str) and name in cls.model_fields else None
            if letter is not None:
                what = "a byte that is not UTF-8" if letter[0] >= "\ud800" else "a control character"
                raise PydanticCustomError(
                    SECTION_ERROR,
                    "{name} holds {what}, {letter}; a link by another name leads to the same place",
                    {"name": name, "what": what, "letter": one_line(letter[0])},
                )
        return given

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, given: Any) -> Any:
        """pydantic would take true for 1."""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            known = cls.model_fields.get(name) if isinstance(value, bool) else None
            if known is not None and known.annotation not in (bool, bool | None):
                raise PydanticCustomError(SECTION_ERROR, "{name} should not be true or false", {"name": name})
        return given

    def refusals(self, config: Config) -> Iterator[str]:
        """Why this part cannot go with others of the whole configuration: one line each, with the keys of both."""
        return iter(())

    def refusals_in_world(self, config: Config, world_size: int) -> Iterator[str]:
        """The same where it depends on how many ranks share the batch. Asked for one rank with `refusals`."""
        return iter(())

    def unread(self) -> Collection[str]:
        """Own fields that name a file, a folder or a run which is not read, as the other fields stand."""
        return ()


def _is_factor(width: Any) -> Any:
    """Somebody who takes it for a number of channels would be told a limit, and not what it limits."""
    if isinstance(width, int | float) and width > MAX_WIDTH:
        limit = "must be <= {limit}: a factor of the published width, not a number of channels"
        raise PydanticCustomError("width", limit, {"limit": f"{MAX_WIDTH:g}"})
    return width


def _not_blank(place: str) -> str:
    if place and not place.strip():
        raise PydanticCustomError("empty_place", "is blank (. is the current folder)")
    return place


def _not_empty(place: str) -> str:
    if not place.strip():
        raise PydanticCustomError("empty_place", "is empty (. is the current folder)")
    return place


Place = Annotated[str, AfterValidator(_not_empty)]  # of a file, a folder or a run
Width = Annotated[float, Field(gt=0, le=MAX_WIDTH), BeforeValidator(_is_factor)]  # of a network's layers, in all
OptionalPlace = Annotated[str, AfterValidator(_not_blank)]  # "": none


def runtime(default: Any, **field: Any) -> Any:
    """A key that says how a run is carried out, not what it computes: it may change when a run is resumed."""
    return Field(default, json_schema_extra={"runtime": True}, **field)
