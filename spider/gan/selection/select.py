"""Top-k of the generator's samples: how many, and which.

The generator learns from the mean loss of the k samples whose scores are highest (pick=best). A score is the mean of a
sample's logits, in full precision, from the pass that the loss uses (with accumulation, one before it). k comes from

    fixed        a number
    linear       batch (1 - (1 - floor) t / over_kimg), down to floor           ATop-k, section 4.4
    exponential  batch gamma^(t / every_kimg), down to floor                    Sinha et al. 2020 as the field codes it
    adaptive     a walk: down by k_unit with probability p, up otherwise        ATop-k, section 3.3

The adaptive walk is a switch rather than a dial for large batches: its stationary law is proportional to
((1 - p) / p)^(k / k_unit), so k stays near the batch below p = 1/2 and near p / (2p - 1) units above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cluster.world import World
from spider import draws
from spider.gan.method import Method, Sums
from spider.gan.overfit.controller import OverfitController
from spider.gan.selection.config import SelectionConfig
from spider.precision import at_least_float32


@dataclass(frozen=True)
class Selected:
    """The outcome for one rank."""

    weights: Tensor  # [b], 1 for chosen samples and 0 for the others, this rank's slots in order
    total: float  # what the weighted sum over the global batch is divided by
    k: int  # chosen samples over all ranks


class Selection(Method):
    """k, and what it takes to move it. Identical on every rank.

    Attributes:
        last_k: how many samples taught the generator in its last step.
    """

    def __init__(self, config: SelectionConfig, batch: int, seed: int, overfit: OverfitController) -> None:
        self.config = config
        self.batch = batch
        self.seed = seed
        self.overfit = overfit
        self.last_k = batch
        self._levels = batch // config.k_unit
        self._lowest = min(self._levels, math.ceil(config.k_min / config.k_unit))
        self._level = self._levels  # of the adaptive walk: k starts at the batch

    @property
    def active(self) -> bool:
        """Whether anything is ever left out."""
        return self.config.kind != "all"

    def k(self, images: int) -> int:
        """How many samples teach the generator when the clock stands at `images`."""
        config, kimg = self.config, images / 1000
        match config.kind:
            case "fixed":
                return config.k or self.batch
            case "linear":
                part = 1 - (1 - config.floor) * min(1.0, kimg / _resolved(config.over_kimg, "over_kimg"))
            case "exponential":
                part = max(config.floor, config.gamma ** (kimg / _resolved(config.every_kimg, "every_kimg")))
            case "adaptive":
                return self._level * config.k_unit
            case _:
                part = 1.0
        return max(1, round(self.batch * part))

    def pick(self, scores: Tensor, images: int, world: World) -> Selected:
        """Choose among the global batch.

        Args:
            scores: [b], this rank's slots in order (slot s belongs to rank s mod W).
            images: the clock.
            world: the ranks, which all call this.
        """
        k = self.k(images)
        scores = at_least_float32(scores.detach())
        if self.config.pick == "worst":
            scores = -scores
        if self.config.scope == "rank":
            local = min(max(1, round(k / world.size)), len(scores))
            weights = _top(scores, local)
            k = local * world.size
        else:
            everyone = world.all_gather(scores)  # [W, b]
            # [W, b] -> [b, W] -> [B] is slot order; every rank takes the same k and keeps its own
            weights = _top(everyone.T.flatten(), k).view(-1, world.size)[:, world.rank]
        self.last_k = k
        return Selected(weights, float(k if self.config.norm == "selected" else self.batch), k)

    def reports(self, scores: Tensor, chosen: Selected) -> dict[str, Tensor]:
        """What rows of metrics.jsonl say of a choice, as values whose means are logged."""
        return {
            "selection/score_all": scores,
            # Over the whole batch, so that nobody need count here: the mean is that of the k
            "selection/score_selected": scores * chosen.weights * (self.batch / chosen.k),
            "selection/score_gap": scores * (chosen.weights * (self.batch / chosen.k) - 1),  # of those, minus of all
            "selection/k": scores.new_full((1,), float(chosen.k)),
        }

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method. Comes after the controller, whose p it heeds."""
        if self.config.kind == "adaptive" and (self.config.update == "step" or self.overfit.due(step)):
            self.walk(step, self.overfit.p)

    def walk(self, step: int, p: float) -> None:
        """Move k of kind=adaptive by one unit at the end of iteration `step`."""
        down = float(draws.generator(self.seed, "topk.k", step).random()) < p
        self._level = min(self._levels, max(self._lowest, self._level + (-1 if down else 1)))

    def traced(self, step: int) -> dict[str, float]:
        """What the trace says of iteration `step`, which is over; empty if it is not traced."""
        window = self.config.trace
        if not window or not window.first_step <= step < window.first_step + window.steps:
            return {}
        return {"k": self.last_k, "p": self.overfit.p}

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        return {"selection/k_now": self.k(images)}

    def state(self) -> dict[str, Any]:
        """See Method."""
        return {"k": self._level * self.config.k_unit, "batch": self.batch}

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        k = state["k"] * self.batch / state["batch"]  # a branch may have another batch, and other strides
        self._level = min(self._levels, max(self._lowest, round(k / self.config.k_unit)))


def _top(scores: Tensor, k: int) -> Tensor:
    """1 at the k highest scores, 0 elsewhere; the lower slot wins a tie. [n] -> [n]."""
    chosen = scores.sort(descending=True, stable=True).indices[:k]
    return torch.zeros_like(scores).index_fill_(0, chosen, 1.0)


def _resolved(value: float | None, key: str) -> float:
    if value is None:
        raise ValueError(f"selection.{key} is not set; a run sets it when it starts")
    return value
