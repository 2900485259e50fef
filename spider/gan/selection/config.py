"""Settings of the sample selection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from spider.arguments import MIN_KIMG
from spider.settings.section import MAX_BATCH, MAX_KIMG, MAX_STEPS, Section

if TYPE_CHECKING:
    from spider.config.schema import Config


class TraceConfig(Section):
    """A window of iterations in which k is written down at every one of them."""

    first_step: int = Field(ge=0, le=MAX_STEPS, description="first iteration of the window")
    steps: int = Field(50, ge=1, le=MAX_STEPS, description="length of the window, in iterations")


class SelectionConfig(Section):
    """The k of the batch's generated samples that the discriminator finds most real teach the generator."""

    kind: Literal["all", "fixed", "linear", "exponential", "adaptive"] = Field(
        "all",
        description="how k runs: the whole batch, fixed, two falling schedules, or steered by overfitting (ATop-k)",
    )
    pick: Literal["best", "worst"] = Field("best", description="the most or the least real ones")
    scope: Literal["global", "rank"] = Field(
        "global", description="rank the samples of the whole batch, or k/world of every rank's own (as StudioGAN does)"
    )
    norm: Literal["selected", "batch"] = Field(
        "selected", description="divide the loss by k, or by the batch as if the others' loss were zero"
    )
    k: int | None = Field(None, ge=1, le=MAX_BATCH, description="kind=fixed: how many samples")
    floor: float = Field(
        0.75, gt=0, le=1, description="kind=linear, exponential: k never falls below this part of the batch"
    )
    over_kimg: float | None = Field(
        None,
        ge=MIN_KIMG,
        le=MAX_KIMG,
        description="kind=linear: reaches the floor here; null = the run's length at its start",
    )
    gamma: float = Field(0.99, gt=0, lt=1, description="kind=exponential: factor of k per every_kimg")
    every_kimg: float | None = Field(
        None, ge=MIN_KIMG, le=MAX_KIMG, description="kind=exponential: unit of the decay; null = one epoch of the data"
    )
    update: Literal["step", "adjust"] = Field(
        "step", description="kind=adaptive: k moves at every iteration, or only when p moves"
    )
    k_unit: int = Field(
        1, ge=1, le=MAX_BATCH, description="kind=adaptive: samples that one move of k adds or drops (1 = the paper)"
    )
    k_min: int = Field(1, ge=1, le=MAX_BATCH, description="kind=adaptive: k never falls below this")
    trace: TraceConfig | None = Field(None, description="write k of every iteration in a window to topk_trace.jsonl")

    @model_validator(mode="after")
    def _fixed_names_k(self) -> SelectionConfig:
        if (self.kind == "fixed") != (self.k is not None):
            raise ValueError("selection.k goes with selection.kind=fixed, and that needs it")
        return self

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        batch = config.batch
        if config.accumulation > 1 and self.kind != "all" and self.scope == "rank":
            yield "selection.scope=rank needs accumulation=1; selection.scope=global works with any"
        if self.k is not None and self.k > batch:
            yield f"selection.k={self.k} exceeds batch={batch}"
        if self.kind == "adaptive":
            if batch % self.k_unit:
                yield f"selection.k_unit={self.k_unit} does not divide batch={batch}"
            if self.k_min > batch:
                yield f"selection.k_min={self.k_min} exceeds batch={batch}"
