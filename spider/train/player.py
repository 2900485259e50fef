"""A player: a network that trains, with its optimizer and its engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cluster.engines.engine import Engine


@dataclass(frozen=True)
class Player:
    """A network and the modules that join it, what of them trains, one optimizer, one engine.

    `trainable` is taken once, at the start: what is frozen then (a backbone, freeze-D layers) stays frozen however
    often gradients are switched off and on between phases.
    """

    name: str
    module: nn.Module  # the network
    parts: Mapping[str, nn.Module]  # what auxiliaries bring, by name
    first_order: Callable[..., object]  # the module, compiled if asked for; never differentiated twice
    trainable: tuple[tuple[str, nn.Parameter], ...]
    optimizer: torch.optim.Optimizer
    engine: Engine
    schedules: Callable[[int], dict[str, Any]]  # of the optimizer: its settings by the clock
    lr_factors: tuple[float, ...]  # of its groups: the network, then every part that trains

    @property
    def method(self) -> str:
        """The name under which its network is heard, if that is a method."""
        return f"networks.{self.name}"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that train."""
        return [parameter for _, parameter in self.trainable]

    def move_schedules(self, images: int) -> None:
        """Give the optimizer the learning rate and betas of this time."""
        settings = self.schedules(images)
        for group, factor in zip(self.optimizer.param_groups, self.lr_factors, strict=True):
            group.update(settings, lr=settings["lr"] * factor)

    def modules(self) -> dict[str, nn.Module]:
        """All that has weights, by the names under which a checkpoint holds them."""
        return {self.name: self.module, **{f"{self.name}.{name}": module for name, module in self.parts.items()}}

    @contextmanager
    def playing(self) -> Iterator[None]:
        """The turn of this player: only its parameters collect gradients."""
        for _, parameter in self.trainable:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for _, parameter in self.trainable:
                parameter.requires_grad_(False)
