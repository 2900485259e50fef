"""The base of every configuration model, and the mark of the keys that may change when a run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# Beyond these a value is a slip of the hand, and would overflow or end the memory somewhere far from its key
MAX_BATCH = 1_000_000
MAX_KIMG = 1e9
MAX_STEPS = 1_000_000_000
MAX_MINUTES = 1e6
MAX_SCHEDULE = 10_000  # values of one
MAX_RATE = 1e18  # of learning: what no network survives, and float32 holds
MAX_FACTOR = 1e9  # of what is multiplied with float32
MAX_WIDTH = 100.0
MAX_DIM = 1_000_000

TRUTH = "truth"  # the error of a boolean where none can be; it is of the section, and names the key


class Section(BaseModel):
    """A part of the configuration: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, given: Any) -> Any:
        """pydantic would take true for 1."""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise PydanticCustomError(TRUTH, "{name} should not be true or false", {"name": name})
        return given


def _not_blank(place: str) -> str:
    if place and not place.strip():
        raise PydanticCustomError("empty_place", "is blank (. is the current folder)")
    return place


def _not_empty(place: str) -> str:
    if not place.strip():
        raise PydanticCustomError("empty_place", "is empty (. is the current folder)")
    return place


Place = Annotated[str, AfterValidator(_not_empty)]  # of a file, a folder or a run
OptionalPlace = Annotated[str, AfterValidator(_not_blank)]  # "": none


def runtime(default: Any, **field: Any) -> Any:
    """A key that says how a run is carried out, not what it computes: it may change when a run is resumed."""
    return Field(default, json_schema_extra={"runtime": True}, **field)
