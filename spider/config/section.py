"""The base of every configuration model, and the mark of the keys that may change when a run is resumed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the configuration: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def runtime(default: Any, **field: Any) -> Any:
    """A key that says how a run is carried out, not what it computes: it may change when a run is resumed."""
    return Field(default, json_schema_extra={"runtime": True}, **field)
