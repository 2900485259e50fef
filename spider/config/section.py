"""The base of every configuration model, and the mark of the keys that may change when a run is resumed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A part of the configuration: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def _not_blank(path: str) -> str:
    if path and not path.strip():
        raise PydanticCustomError("blank", "a path of blanks alone is none")
    return path


def _not_empty(path: str) -> str:
    if not path.strip():
        raise PydanticCustomError("blank", "is empty, and would mean the current folder")
    return path


Place = Annotated[str, AfterValidator(_not_empty)]  # of a file, a folder or a run
OptionalPlace = Annotated[str, AfterValidator(_not_blank)]  # "": none


def runtime(default: Any, **field: Any) -> Any:
    """A key that says how a run is carried out, not what it computes: it may change when a run is resumed."""
    return Field(default, json_schema_extra={"runtime": True}, **field)
