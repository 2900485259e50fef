"""Numbers that may move with the clock.

lr: 2e-4                                          a number
lr: {cosine: [2e-4, 5e-5], until_kimg: 2000}      along half a cosine from the first to the second, then constant
lr: {linear: [2e-4, 0], until_kimg: 2000}         along a line
lr: {steps: [[0, 2e-4], [1000, 5e-5]]}            constant from each kimg on
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, GetCoreSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from spider.settings.section import MAX_KIMG, MAX_SCHEDULE, Section

Auto = Literal["auto"]  # see `spider.settings.auto`
AUTO = Tag("auto")


class Moving(Section):
    """A schedule: one of cosine, linear and steps."""

    cosine: tuple[float, float] | None = Field(None, description="first and last value")
    linear: tuple[float, float] | None = Field(None, description="first and last value")
    until_kimg: float | None = Field(
        None, gt=0, le=MAX_KIMG, description="cosine, linear: where the last value is reached"
    )
    steps: tuple[tuple[float, float], ...] | None = Field(
        None, min_length=1, max_length=MAX_SCHEDULE, description="pairs of kimg and value"
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> Moving:
        kinds = [kind for kind in ("cosine", "linear", "steps") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise PydanticCustomError("schedule", "a schedule has one of cosine, linear and steps")
        if (self.until_kimg is None) != (self.steps is not None):
            raise PydanticCustomError("schedule", "until_kimg goes with cosine or linear, which need it")
        if self.steps is not None:
            starts = [start for start, _ in self.steps]
            if starts[0] != 0 or any(later <= earlier for earlier, later in pairwise(starts)):
                raise PydanticCustomError("schedule", "steps begin at 0 kimg, and each lies after the one before")
        return self

    @property
    def values(self) -> Sequence[float]:
        """The values between which it moves."""
        return self.cosine or self.linear or [value for _, value in self.steps or ()]

    def at(self, images: int) -> float:
        """The value when the clock stands at `images`."""
        kimg = images / 1000
        if self.steps is not None:
            return next(value for start, value in reversed(self.steps) if start <= kimg)
        (first, last), done = self.values, min(1.0, kimg / (self.until_kimg or math.inf))
        if self.cosine is not None:
            done = (1 - math.cos(math.pi * done)) / 2
        return first + (last - first) * done


def arm(value: Any) -> str:
    """Whether a value is meant as a number, a schedule or `auto`."""
    return "auto" if value == "auto" else _arm(value)


def _arm(value: Any) -> str:
    return "schedule" if isinstance(value, Moving | Mapping) else "number"


Schedule = Annotated[
    Annotated[float, Tag("number")] | Annotated[Moving, Tag("schedule")],
    Discriminator(_arm),
]
AutoWhole = Annotated[Annotated[int, Tag("number")] | Annotated[Auto, AUTO], Discriminator(arm)]
AutoSchedule = Annotated[
    Annotated[float, Tag("number")] | Annotated[Moving, Tag("schedule")] | Annotated[Auto, AUTO],
    Discriminator(arm),
]


@dataclass(frozen=True)
class Bounds:
    """Limits that all values of a schedule keep. Annotate a `Schedule` or an `AutoWhole` with it."""

    ge: float | None = None
    gt: float | None = None
    lt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, schedule: AutoSchedule) -> AutoSchedule:
        if schedule == "auto":
            return schedule
        for value in schedule.values if isinstance(schedule, Moving) else [schedule]:
            for sign, bound, kept in (
                (">=", self.ge, self.ge is None or value >= self.ge),
                (">", self.gt, self.gt is None or value > self.gt),
                ("<", self.lt, self.lt is None or value < self.lt),
                ("<=", self.le, self.le is None or value <= self.le),
            ):
                if not kept:
                    raise PydanticCustomError("bounds", f"must be {sign} {bound:g}")
        return schedule


def value_at(schedule: AutoSchedule, images: int) -> float:
    """The value of a number or a schedule when the clock stands at `images`. A run knows no `auto` any more."""
    if schedule == "auto":
        raise ValueError("auto was not filled in")
    return schedule.at(images) if isinstance(schedule, Moving) else schedule


def largest(schedule: AutoSchedule) -> float:
    """The largest value that a number or a schedule takes. What `auto` comes to is not known, and not 0."""
    if schedule == "auto":
        return math.inf
    return max(schedule.values) if isinstance(schedule, Moving) else schedule
