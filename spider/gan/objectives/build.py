"""From settings to the objective, and to the penalties that are on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from spider.errors import SpiderUsageError
from spider.gan.method import Method
from spider.gan.objectives import penalties
from spider.gan.objectives.config import (
    GeneratorPenaltiesConfig,
    HingeConfig,
    ObjectiveChoice,
    ObjectiveConfig,
    PenaltiesConfig,
)
from spider.gan.objectives.generator_penalties import GeneratorPenalty
from spider.gan.objectives.hinge import Hinge
from spider.gan.objectives.least_squares import LeastSquares, SoftplusLeastSquares
from spider.gan.objectives.non_saturating import NonSaturating
from spider.gan.objectives.objective import Objective, Separable
from spider.gan.objectives.path_length import PathLength
from spider.gan.objectives.penalties import Penalty
from spider.gan.objectives.relativistic import Relativistic
from spider.gan.objectives.saturating import Saturating
from spider.gan.objectives.slicing import Slicing
from spider.gan.objectives.wasserstein import Wasserstein
from spider.settings.schedule import AutoSchedule, Schedule, largest, value_at

_CHOICES: dict[str, type[Objective]] = {
    "wasserstein": Wasserstein,
    "non_saturating": NonSaturating,
    "saturating": Saturating,
    "least_squares": LeastSquares,
    "relativistic": Relativistic,
}


def build_objective(config: ObjectiveChoice, discriminator: nn.Module, device: torch.device) -> Objective:
    """The objective that the settings name. Arguments as `ObjectiveChoice.build`.

    Raises SpiderUsageError: one that is not of this package compares pairs, and its settings do not say so.
    """
    match config:
        case HingeConfig():
            objective: Objective = Hinge(config.margin_from)
        case ObjectiveConfig(kind="least_squares", slicing=True):
            objective = SoftplusLeastSquares()
        case ObjectiveConfig():
            objective = _CHOICES[config.kind]()
        case _:
            objective = config.build(discriminator, device)
    if objective.paired != config.paired:
        raise SpiderUsageError(
            f"objective.kind={config.kind}: {type(objective).__name__} has paired = {objective.paired}, its settings "
            f"{config.paired}; let {type(config).__name__} have a property paired that returns {objective.paired}"
        )
    return _sliced(config, objective, device) if config.slicing else objective


def _sliced(config: ObjectiveChoice, objective: Objective, device: torch.device) -> Objective:
    """With SAN's loss of the direction beside it."""
    if isinstance(objective, Method) or not isinstance(objective, Separable | Relativistic):
        raise SpiderUsageError(
            f"objective.slicing=true goes with the objectives of this package, and with subclasses of Separable that "
            f"remember nothing; objective.kind={config.kind} is neither"
        )
    published: Literal["normalised", "autograd"] = "autograd" if config.kind == "least_squares" else "normalised"
    return Slicing(objective, config.direction_weights or published, device)


@dataclass(frozen=True)
class PenaltyTerm:
    """A penalty that is on.

    Attributes:
        name: in the rows of metrics.jsonl.
        values: the penalty.
        weight: what it is multiplied by when the clock stands at so many images.
        needs_fakes: whether it looks at generated images.
        uses: of the draws by which its real and its generated images are augmented.
    """

    name: str
    values: Penalty
    weight: Callable[[int], float]
    needs_fakes: bool
    uses: tuple[str, str]


def build_penalties(config: PenaltiesConfig) -> Iterator[PenaltyTerm]:
    """The penalties on the discriminator that the settings turn on."""
    if largest(config.r1_gamma):
        yield PenaltyTerm("r1", penalties.r1, partial(_half, config.r1_gamma, config.r1_factor), False, ("r1", "r1"))
    if largest(config.r2_gamma):
        yield PenaltyTerm("r2", penalties.r2, partial(_half, config.r2_gamma, 1.0), True, ("r2", "r2"))
    if config.gp_weight:
        yield PenaltyTerm("gp", penalties.gp, partial(value_at, config.gp_weight), True, ("gp", "gp"))
    for number, choice in enumerate(config.more):
        name = f"more.{number}"
        uses = (f"{name}.real", f"{name}.fake")
        yield PenaltyTerm(name, choice.build(), partial(value_at, choice.weight), choice.needs_fakes, uses)


@dataclass(frozen=True)
class GeneratorPenaltyTerm:
    """A penalty on the generator that is on, by the name of the method that it is. `weight`: as above."""

    name: str
    penalty: GeneratorPenalty
    weight: Callable[[int], float]


def build_generator_penalties(
    config: GeneratorPenaltiesConfig, image_shape: tuple[int, int, int], device: torch.device
) -> tuple[GeneratorPenaltyTerm, ...]:
    """The penalties on the generator that the settings turn on. Arguments as `GeneratorPenaltyChoice.build`."""
    on: dict[str, tuple[GeneratorPenalty, Schedule]] = {}
    if largest(config.path_length_weight):
        on["path_length"] = PathLength(config.path_length_decay, device), config.path_length_weight
    for number, choice in enumerate(config.more):
        on[str(number)] = choice.build(image_shape, device), choice.weight
    return tuple(
        GeneratorPenaltyTerm(f"g_penalties.{name}", penalty, partial(value_at, weight))
        for name, (penalty, weight) in on.items()
    )


def _half(gamma: AutoSchedule, factor: float, images: int) -> float:
    """The weight of R1 and R2, as StyleGAN states them."""
    return value_at(gamma, images) * factor / 2
