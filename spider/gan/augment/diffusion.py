"""Diffusion-GAN's noise (Wang et al. 2023): D sees images after some steps of a diffusion, and is told how many.

    x_t = sqrt(abar_t) x + sqrt(1 - abar_t) std n,   n normal,   abar_t = product of (1 - beta_s) over s = 1 .. t
    T   = t_min + round(p (t_max - t_min)),   beta_1 .. beta_T evenly from beta_start to beta_end

p is steered by the overfitting, as ADA's. Each time it is adjusted, T follows, betas are stretched anew, and a pool of
64 numbers of steps is drawn: some from 1 .. T, t with a probability in proportion to t - 1 (`law=priority`), the others
0. Each image draws its t from the pool. With `into=maps` pixels stay as they are; a projected discriminator is told the
noise of each channel of its maps, and adds it there.

Schedules, T, pools and x_t are those of the public implementation (Zhendong-Wang/Diffusion-GAN, diffusion-stylegan2 and
diffusion-projected-gan, training/diffusion.py). What differs: a pool is a function of the seed and of how often it was
drawn, so that it is the same on all ranks and comes back when a run is resumed. There every rank draws its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spider import draws as addressed
from spider.draws import Address
from spider.gan.augment.config import MAPS_CHANNELS, DiffusionConfig
from spider.gan.augment.operations import each
from spider.gan.augment.steered import Steered
from spider.gan.method import Sums
from spider.gan.outputs import Condition

POOL = 64  # numbers of steps that images draw from


class Diffusion(Steered):
    """See Augmentation.

    Attributes:
        steps: T, how many steps there are now.
    """

    column = "augment/diffusion_p"

    def __init__(self, config: DiffusionConfig, batch: int) -> None:
        super().__init__(config.p, config.control, batch)
        self.config = config
        self._drawn = 0  # how often T and the pool have followed p
        self._follow()

    def __call__(self, images: Tensor, draws: Address, use: str) -> Tensor:
        """See Augmentation."""
        if self.config.into == "maps":
            return images
        abar = self._abar[self._times(draws, use, ())]
        noise = draws.normal(f"{use}.diffusion.noise", images.shape[1:]).to(images.dtype)
        return each(abar.sqrt(), images) * images + each((1 - abar).sqrt() * self.config.noise_std, images) * noise

    def told(self, condition: Condition, draws: Address, use: str) -> Condition:
        """See Augmentation: t [N], or with `into=maps` how much of each channel's variance is noise, [N, channels]."""
        if self.config.into == "maps":
            time = 1 - self._abar[self._times(draws, use, (MAPS_CHANNELS,))]
        else:
            time = self._times(draws, use, ()).float()
        return replace(condition, time=time.to(draws.device, non_blocking=True))

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method."""
        super().iterated(step, images, sums)
        if (step + 1) % self.config.control.interval_steps == 0:
            self._drawn += 1
            self._follow()

    def state(self) -> dict[str, Any]:
        """See Method."""
        return {**super().state(), "drawn": self._drawn, "steps": self.steps, "diffused": self._diffused}

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        super().load(state)
        self._drawn, self.steps, self._diffused = state["drawn"], state["steps"], state["diffused"]
        self._abar = kept_variance(self.steps, self.config.beta_start, self.config.beta_end)

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        return {**super().columns(images), "augment/diffusion_steps": float(self.steps)}

    def _follow(self) -> None:
        self.steps = steps(self.p, self.config.t_min, self.config.t_max)
        self._diffused = min(round(POOL * self.p), 48) if self.config.diffused is None else self.config.diffused
        self._abar = kept_variance(self.steps, self.config.beta_start, self.config.beta_end)

    def _times(self, draws: Address, use: str, shape: tuple[int, ...]) -> Tensor:
        """int64 [N, *shape], the number of steps of each image, on the host."""
        seed, index = draws.seed, [self._drawn]
        u = addressed.uniform(seed, "diffusion.pool", index, (self._diffused,))[0].double().numpy()
        pool = torch.zeros(POOL, dtype=torch.int64)
        pool[: self._diffused] = torch.from_numpy(times(u, self.steps, self.config.law))
        return pool[(draws.uniform(f"{use}.diffusion.t", shape, host=True) * POOL).long()]


def steps(p: float, t_min: int, t_max: int) -> int:
    """T of p from 0 to 1."""
    return int(np.clip(int(t_min + round(p * (t_max - t_min))), t_min, t_max))


def kept_variance(count: int, beta_start: float, beta_end: float) -> Tensor:
    """abar_0 = 1 .. abar_T of T = `count` steps, float32 [T + 1]."""
    betas = torch.linspace(beta_start, beta_end, count, dtype=torch.float64).float()
    return torch.cat([torch.ones(1), (1 - betas).cumprod(0)])


def times(uniforms: NDArray[np.float64], count: int, law: str) -> NDArray[np.int64]:
    """From numbers in [0, 1) to t of 1 .. T = `count`: all alike, or (`priority`) t in proportion to t - 1."""
    weights = np.arange(count, dtype=np.float64) if law == "priority" and count > 1 else np.ones(count)
    cumulated = weights.cumsum()
    found: NDArray[np.int64] = 1 + np.searchsorted(cumulated / cumulated[-1], uniforms, side="right").astype(np.int64)
    return found
