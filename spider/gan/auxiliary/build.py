"""From settings to auxiliaries. Weights are a function of the seed, and no generator outside is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spider import draws
from spider.gan.auxiliary.auxiliary import Auxiliary
from spider.gan.auxiliary.chain import ChainTerms
from spider.gan.auxiliary.config import (
    AuxiliaryChoice,
    ChainConfig,
    ConsistencyConfig,
    GuidanceConfig,
    InsgenConfig,
    LecamConfig,
    ReconstructionConfig,
)
from spider.gan.auxiliary.consistency import Consistency
from spider.gan.auxiliary.guidance import Guidance
from spider.gan.auxiliary.insgen import Insgen
from spider.gan.auxiliary.lecam import Lecam
from spider.gan.auxiliary.reconstruction import Reconstruction
from spider.gan.outputs import ConditionShape
from spider.gan.saved import saved_tensors
from spider.settings.schedule import value_at


@dataclass(frozen=True)
class Joined:
    """An auxiliary and its settings, by the name of the method that it is."""

    name: str
    choice: AuxiliaryChoice
    auxiliary: Auxiliary

    def weight(self, images: int) -> float:
        """What its terms are multiplied by when the clock stands at `images`."""
        return value_at(self.choice.weight, images)

    @property
    def part(self) -> str:
        """The name of what it brings for a player."""
        return self.name.replace(".", "")

    def saved(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds of it, by group."""
        parts = {f"{role}.{self.part}": saved_tensors(part) for role, part in self.auxiliary.parts().items()}
        return {**parts, self.name: {**self.auxiliary.tensors()}}


def build_auxiliaries(
    configs: Sequence[AuxiliaryChoice],
    discriminator: nn.Module,
    image_shape: tuple[int, int, int],
    told: ConditionShape,
    device: torch.device,
    seed: int,
) -> tuple[Joined, ...]:
    """The auxiliaries that the settings name, in order.

    Args:
        discriminator: of the run.
        image_shape: (C, H, W).
        told: what the networks are told of every image.
        device: where what they remember lies. Their modules are moved with the players'.
        seed: of the run.
    """
    joined: list[Joined] = []
    for number, config in enumerate(configs):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draws.torch_seed(seed, f"init.auxiliary.{number}"))
            match config:
                case LecamConfig():
                    built: Auxiliary = Lecam(config.decay, device)
                case ConsistencyConfig():
                    built = Consistency(config)
                case ChainConfig():
                    built = ChainTerms(config, discriminator)
                case InsgenConfig():
                    built = Insgen(config, discriminator, device)
                case ReconstructionConfig():
                    built = Reconstruction(config, discriminator, image_shape, device)
                case GuidanceConfig():
                    built = Guidance(config, told, device)
                case _:
                    built = config.build(discriminator, image_shape, told, device)
        joined.append(Joined(f"auxiliary.{number}", config, built))
    return tuple(joined)
