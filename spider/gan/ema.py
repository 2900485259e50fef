"""The average of the generator's weights, which is what a finished run makes its images with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from spider.gan.saved import copy_of
from spider.settings.schedule import value_at

if TYPE_CHECKING:
    from spider.config.schema import EmaConfig


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
