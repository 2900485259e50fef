"""The players, and the average of the generator's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cluster.engines.engine import Engine
from spider.config.schema import EmaConfig
from spider.gan.saved import copy_of
from spider.settings.schedule import value_at


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


class Ema:
    """The moving average of a module's weights. Buffers are copied, but for statistics that are averaged as well."""

    def __init__(self, config: EmaConfig, module: nn.Module) -> None:
        self.config = config
        self.module = copy_of(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, batch: int, images: int) -> None:
        """Move towards `module` by what `batch` more images are worth after `images` (StyleGAN2-ADA's rule)."""
        half_life, rampup = value_at(self.config.half_life_kimg, images) * 1000, self.config.rampup
        half_life = half_life if rampup is None else min(half_life, images * rampup)
        keep = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        moving, towards = zip(*(pair for pair in pairs if pair[0] is not pair[1]), strict=True)
        torch._foreach_lerp_(moving, towards, 1 - keep)
        averaged = ("running_mean", "running_var") if self.config.statistics == "averaged" else ()
        for (name, average), current in zip(self.module.named_buffers(), module.buffers(), strict=True):
            average.lerp_(current, 1 - keep) if name.endswith(averaged) else average.copy_(current)
