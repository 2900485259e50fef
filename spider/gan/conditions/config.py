"""Settings of what the players are told, and what they cannot go with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from spider.settings.choices import Choice, Choices
from spider.settings.marks import Names
from spider.settings.section import MAX_DIM, MAX_FACTOR, Place

if TYPE_CHECKING:
    from torch import Tensor

    from shards.dataset import ShardDataset
    from spider.config.schema import Config
    from spider.gan.conditions.conditions import Conditions


_A = {"class": "a class", "instance": "an instance"}


class ConditionChoice(Choice):
    """The settings of what the players are told.

    Attributes:
        tells: what networks must be able to be told, one of their `conditions`; None: nothing.
    """

    tells: ClassVar[str | None] = None

    @property
    def told(self) -> Collection[str]:
        """All that networks must be able to be told, of their `conditions`."""
        return () if self.tells is None else (self.tells,)

    def build(self, dataset: ShardDataset, paired_objective: bool) -> Conditions:
        """The conditions of images to learn, where they are not of this package.

        Args:
            paired_objective: whether the objective compares each generated image with a real one.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    def restored(self, state: Any, tensors: Mapping[str, Tensor]) -> Conditions:
        """The conditions of a finished generator, by what their `state` and `tensors` were when it was saved."""
        raise NotImplementedError(f"{type(self).__name__}.restored")

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        for name, network in (("generator", config.generator), ("discriminator", config.discriminator)):
            for what in self.told:
                if what not in network.conditions:
                    yield (
                        f"{name}.kind={network.kind} cannot be told {_A[what]}: condition.kind={self.kind} needs "
                        f"another {name}.kind, or set condition.kind=none"
                    )


class NoConditionConfig(ConditionChoice):
    """The players are told nothing of an image."""

    kind: Literal["none"] = "none"


class ClassConditionConfig(ConditionChoice):
    """Both players are told the class of every image: the labels of `data`, where it has classes."""

    tells: ClassVar[str | None] = "class"

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
        yield from super().refusals(config)
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


class InstanceConditionConfig(ConditionChoice):
    """Both players are told features of an instance, and real images are its neighbours (IC-GAN)."""

    tells: ClassVar[str | None] = "instance"

    kind: Literal["instance"] = "instance"
    bank: Annotated[Place, Names("file")] = Field(
        description="the file that `spider instances` makes of the images to learn"
    )
    classes: bool = Field(False, description="both players are told a class too, that of a neighbour")
    neighbors: int | None = Field(
        None, ge=1, le=MAX_DIM, description="nearest images that belong to an instance; null = as many as the bank has"
    )
    flips: bool | None = Field(
        None,
        description="half of the conditions are features of the flipped image, whether or not the image is flipped "
        "(data.mirror); null = if the bank has them",
    )
    sampler: Literal["instances", "balanced_instances", "classes"] = Field(
        "instances",
        description="instances: every instance once per epoch, and a neighbour of it is read; balanced_instances: "
        "instances of rare classes more often (temperature); classes: images of rare classes more often, told of a "
        "neighbour",
    )
    temperature: float | None = Field(
        None,
        ge=1,
        le=MAX_FACTOR,
        description="a class of n images has a share in proportion to n^(1/temperature); 1 = as it is, null = all "
        "classes alike",
    )
    samples: Literal["as_data", "uniform"] = Field(
        "as_data",
        description="with classes: those of the numbered images that metrics, grids and `spider generate` show: those "
        "near the instances that are drawn; or all alike, each with an instance that it is near",
    )
    stored: Literal["centres", "all"] = Field(
        "centres",
        description="instances that a finished generator keeps, and samples from: those of the bank that stand for "
        "all, or every one",
    )

    @property
    def told(self) -> Collection[str]:
        """See ConditionChoice."""
        return ("instance", "class") if self.classes else ("instance",)

    @property
    def needs_labels(self) -> bool:
        """Whether the images must have classes."""
        return self.classes or self.sampler != "instances"

    @model_validator(mode="after")
    def _only_balance_has_a_temperature(self) -> InstanceConditionConfig:
        if self.temperature is not None and self.sampler == "instances":
            raise ValueError("condition.temperature goes with condition.sampler=balanced_instances or classes")
        if self.samples == "uniform" and not self.classes:
            raise ValueError("condition.samples=uniform goes with condition.classes=true")
        return self

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        yield from super().refusals(config)
        if config.data.order != "full":
            yield (
                "condition.kind=instance reads neighbours from all shards at once: "
                f"data.order={config.data.order} cannot be held"
            )


ConditionConfig = Annotated[ConditionChoice, Choices(NoConditionConfig, ClassConditionConfig, InstanceConditionConfig)]
