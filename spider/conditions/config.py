"""Settings of what the players are told, and what they cannot go with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from spider.config.section import MAX_FACTOR, Section

if TYPE_CHECKING:
    from spider.config.schema import Config


class NoConditionConfig(Section):
    """The players are told nothing of an image."""

    kind: Literal["none"] = "none"


class ClassConditionConfig(Section):
    """Both players are told the class of every image: the labels of `data`, where it has classes."""

    kind: Literal["class"] = "class"
    fakes: Literal["as_data", "uniform", "paired"] | None = Field(
        None,
        description="classes of generated images in training: in the shares that real images come with, all alike, or "
        "those of the real images that they are compared with; null = paired where the objective pairs, else as_data",
    )
    sampler: Literal["data", "balanced"] = Field(
        "data", description="real images: every image once per epoch, or rare classes more often (temperature)"
    )
    temperature: float | None = Field(
        None,
        ge=1,
        le=MAX_FACTOR,
        description="sampler=balanced: a class of n images has a share in proportion to n^(1/temperature); 1 = as it "
        "is, null = all classes alike",
    )
    unlabelled: Literal["refuse", "skip", "own_class"] = Field(
        "refuse", description="images without a label: refused, left out and counted, or a class of their own"
    )
    samples: Literal["as_data", "uniform"] = Field(
        "as_data",
        description="classes of the numbered images that metrics, grids and `spider generate` show: in the shares of "
        "the training images, or all alike; image N has the same class always",
    )

    @model_validator(mode="after")
    def _only_balance_has_a_temperature(self) -> ClassConditionConfig:
        if self.temperature is not None and self.sampler != "balanced":
            raise ValueError("condition.temperature goes with condition.sampler=balanced")
        return self

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        for name, network in (("generator", config.generator), ("discriminator", config.discriminator)):
            if self.kind not in network.conditions:
                yield (
                    f"{name}.kind={network.kind} cannot be told a class: condition.kind=class needs another "
                    f"{name}.kind, or set condition.kind=none"
                )
        if self.fakes == "paired" and not config.objective.paired:
            yield (
                "condition.fakes=paired takes the classes of the real images in every step, which goes with "
                "objective.kind=relativistic; others: as_data, uniform"
            )
        if self.sampler == "balanced" and config.data.order != "full":
            yield (
                "condition.sampler=balanced reads from all shards at once: "
                f"data.order={config.data.order} cannot be held"
            )


ConditionConfig = Annotated[NoConditionConfig | ClassConditionConfig, Field(discriminator="kind")]
