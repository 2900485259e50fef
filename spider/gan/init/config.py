"""Settings of the weights that a run begins with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from spider.settings.choices import Choice, Choices
from spider.settings.marks import Names
from spider.settings.section import MAX_STEPS, Place

if TYPE_CHECKING:
    from torch import Tensor

Network = Literal["g", "g_ema", "d"]
GROUPS: Mapping[Network, str] = {"g": "generator", "g_ema": "generator_ema", "d": "discriminator"}  # of a checkpoint
ANY = "*."  # begins the name of a given tensor that stands for several, see `fit`


def networks_of(names: Iterable[str]) -> tuple[Network, ...]:
    """Those of which a file has weights, by how the names of its tensors begin. None: they are of one network."""
    begun = {name.partition(".")[0] for name in names}
    return tuple(player for player, group in GROUPS.items() if group in begun)


class InitChoice(Choice):
    """The settings of a beginning."""

    players: tuple[Network, ...] = Field(
        (), description="networks whose weights are taken: generator, its average, discriminator"
    )
    freeze_d: int = Field(
        0,
        ge=0,
        le=MAX_STEPS,
        description="the discriminator's first so many layers, from the images on, keep the given weights and never "
        "train (FreezeD, Mo et al. 2020); its last layer always trains",
    )
    require: Literal["some", "all"] = Field(
        "some",
        description="some: what does not fit, by name and shape, is left at random and reported; all: it is refused, "
        "but for the new head of a generator that grows",
    )

    def read(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The weights, by `generator`, `generator_ema`, `discriminator`, where the choice is not of this package."""
        raise NotImplementedError(f"{type(self).__name__}.read")

    @model_validator(mode="after")
    def _only_given_layers_freeze(self) -> InitChoice:
        if self.freeze_d and "d" not in self.players:
            raise ValueError(f"init.freeze_d={self.freeze_d} freezes given weights: init.players must name d")
        return self


class RandomInitConfig(InitChoice):
    """Random weights, by the seed of the run."""

    kind: Literal["none"] = "none"


class RunInitConfig(InitChoice):
    """The weights of a checkpoint of another run. Optimizers, clock and all else begin anew."""

    kind: Literal["run"] = "run"
    run: Annotated[Place, Names("run", once=True)] = Field(
        description="RUN, RUN@best, RUN@last or RUN@KIMG; only the start of a run reads it"
    )
    players: tuple[Network, ...] = Field(
        ("g", "g_ema", "d"),
        min_length=1,
        description="networks whose weights are taken. Of g and g_ema, one that is not named begins as the other",
    )


class WeightsInitConfig(InitChoice):
    """The weights in a safetensors file: of one network, or of several, their names after `generator.` and so on."""

    kind: Literal["weights"] = "weights"
    file: Annotated[Place, Names("file", once=True)] = Field(
        description="a .safetensors file; only the start of a run reads it. A name that begins with `*.`, after the "
        "network's, stands for all that end so"
    )
    players: tuple[Network, ...] = Field(
        ("g", "g_ema"),
        min_length=1,
        description="networks whose weights are taken. Of g and g_ema, one that is not named begins as the other",
    )


InitConfig = Annotated[InitChoice, Choices(RandomInitConfig, RunInitConfig, WeightsInitConfig)]
