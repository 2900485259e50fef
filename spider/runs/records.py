"""What the small files of a run hold: what is read again is checked against this.

The files lie where people and disks can damage them (see `spider.runs.directory`). A damaged one must be named, not
trusted.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

_CHECKPOINT = re.compile(r"\d{1,12}(\.\d{1,3})?-kimg")


def is_checkpoint_name(name: str) -> bool:
    """Whether `spider.runs.directory.checkpoint_name` could have made it."""
    return _CHECKPOINT.fullmatch(name) is not None


class BestRecord(TypedDict):
    """best.json: which checkpoint, by which metric's label, with which value."""

    checkpoint: Annotated[str, Field(pattern=f"^{_CHECKPOINT.pattern}$")]
    metric: str
    value: float


class StartRecord(TypedDict, total=False):
    """One start in environment.json, as far as it is read again; see `spider.runs.environment`."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    from_images: int
    world_size: int
    parameters: dict[str, int]
    versions: dict[str, str]
    data: dict[str, Any]


class EnvironmentRecord(TypedDict):
    """environment.json."""

    starts: list[StartRecord]


class TimingRecord(BaseModel):
    """Of a row: how fast, and what held it up; see `spider.runs.timing`."""

    model_config = ConfigDict(extra="allow")

    img_per_s: float = Field(ge=0, le=1e12)
    evaluation_s: float | None = Field(None, ge=0, le=1e12)
    evaluations_left: int = Field(0, ge=0)
    left_s: float | None = Field(None, ge=0)
    slowest_rank: int | None = None
    slowest_rank_percent: float = 0.0
    data_wait_rank: int | None = None
    data_wait_percent: float = 0.0


class MetricsRecord(BaseModel):
    """A row of metrics.jsonl: the clock, the timing, and numbers by name, None where one was not finite."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    images: int = Field(ge=0, lt=10**15)
    kimg: float
    timing: TimingRecord
