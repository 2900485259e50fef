"""Pivotal tuning (Roich et al. 2021): the weights of a generator moved so that a point's image is the given one.

The point that a search found stays: the pivot. A copy of the network trains on it alone, by the perceptual distance
plus L2, with Adam at 3e-4 (danielroich/PTI, configs/hyperparameters.py). That code takes 350 steps at most, and stops
early at an LPIPS of 0.07; here all steps are taken, and the best weights met are kept. Its penalty on what changes away
from the pivot is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spider.gan.saved import copy_of, freeze_named, saved_tensors
from spider.pictures.projection.judge import Closeness, Judge
from spider.pictures.projection.search import Watch
from spider.pictures.projection.spaces import Point, SpaceOfImages
from spider.precision import exact_float32

_RATE = 3e-4


@dataclass(frozen=True)
class Tuned:
    """The best weights met.

    Attributes:
        weights: as a checkpoint holds a generator's.
        image: that they make of the pivot, [1, C, H, W].
        way: the distance before the first step and after each: steps + 1 numbers.
    """

    weights: dict[str, Tensor]
    image: Tensor
    closeness: Closeness
    way: list[float]


def tune(space: SpaceOfImages, pivot: Point, judge: Judge, steps: int, watch: Watch) -> Tuned:
    """Go `steps` steps with a copy of the space's network. The network itself does not move."""
    network = copy_of(space.generator.module).requires_grad_(True)
    freeze_named(network)
    parameters = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    best: Tuned | None = None
    way: list[float] = []
    with exact_float32():
        for step in range(steps + 1):
            image = space.image(pivot, network)
            distance, l2 = judge(image)
            closeness = Closeness.of(distance, l2)
            way.append(closeness.distance)
            watch(step, closeness, image.detach())
            if best is None or closeness.loss < best.closeness.loss:
                weights = {name: tensor.clone() for name, tensor in saved_tensors(network).items()}
                best = Tuned(weights, image.detach(), closeness, way)
            if step < steps:
                optimizer.zero_grad()
                (distance + l2).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    assert best is not None
    return best
