"""The steps from a start to the point of a space whose image is near a given one.

Constants and schedules are those of the projector of StyleGAN2-ADA (NVlabs/stylegan2-ada-pytorch, projector.py): Adam,
whose rate rises over the first 5 % of the steps and falls by a cosine over the last 25 %; normal numbers that are added
to w, smaller and smaller over the first 75 %; maps of noise that a penalty on the correlation of neighbours, at every
scale, keeps white, and that are brought to mean 0 and mean square 1 after each step. What differs: the loss adds L2 to
the perceptual distance; what is found is the best point met, and not the last; noise begins as the generator has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from spider import draws
from spider.gan.sources.frozen import WithMapping
from spider.pictures.projection.judge import Closeness, Judge
from spider.pictures.projection.spaces import Point, SpaceOfImages
from spider.precision import exact_float32

_RISE, _FALL, _WANDERS = 0.05, 0.25, 0.75  # shares of the steps
_NOISE_WEIGHT = 1e5
_COARSEST_PX = 8  # the side of a map of noise that is not halved any more

# Told, before the first step and after each, which step it is, how near the image is, and the image [1, C, H, W]
Watch = Callable[[int, Closeness, Tensor], None]


@dataclass(frozen=True)
class Found:
    """The best point met.

    Attributes:
        image: that it makes, [1, C, H, W].
        way: the distance before the first step and after each: steps + 1 numbers.
    """

    point: Point
    image: Tensor
    closeness: Closeness
    way: list[float]


def search(
    space: SpaceOfImages, start: Point, judge: Judge, steps: int, seed: int, watch: Watch, *, wander: float = 0.0
) -> Found:
    """Go `steps` steps from a point. It is the same for the same seed, whatever else is searched.

    Args:
        wander: the deviation of the normal numbers that are added at first.
    """
    network = space.generator.module
    sizes = network.noise_sizes if isinstance(network, WithMapping) else ()
    point = start.copy()
    optimizer = torch.optim.Adam([each.requires_grad_() for each in point.tensors()], lr=space.rate)
    best: Found | None = None
    way: list[float] = []
    with exact_float32():
        for step in range(steps + 1):
            t = step / steps
            deviation = wander * max(0.0, 1 - t / _WANDERS) ** 2
            image = space.image(_wandered(point, deviation, seed, step))
            distance, l2 = judge(image)
            closeness = Closeness.of(distance, l2)
            way.append(closeness.distance)
            watch(step, closeness, image.detach())
            if deviation == 0 and (best is None or closeness.loss < best.closeness.loss):
                best = Found(point.copy(), image.detach(), closeness, way)
            if step == steps:
                break
            loss = (distance + l2).sum()
            if point.noise is not None:
                loss = loss + _NOISE_WEIGHT * correlation(maps_of_noise(point.noise, sizes))
            gradients = torch.autograd.grad(loss, point.tensors(), allow_unused=True)
            for tensor, gradient in zip(point.tensors(), gradients, strict=True):
                tensor.grad = gradient
            optimizer.param_groups[0]["lr"] = space.rate * ramp(t)
            optimizer.step()
            with torch.no_grad():
                space.bound(point.where)
                for noise in [] if point.noise is None else maps_of_noise(point.noise, sizes):
                    noise.sub_(noise.mean()).mul_(noise.square().mean().rsqrt())
    assert best is not None  # nothing is added at the last step
    return best


def ramp(t: float) -> float:
    """What the learning rate is multiplied by when the share t of all steps is done."""
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / _FALL))
    return falling * min(1.0, t / _RISE)


def maps_of_noise(noise: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[1, numbers] -> views [1, 1, height, width]."""
    parts = torch.split(noise, [height * width for height, width in sizes], dim=1)
    return [part.view(1, 1, *size) for part, size in zip(parts, sizes, strict=True)]


def correlation(maps: Sequence[Tensor]) -> Tensor:
    """Of the values of neighbours, squared, summed over maps, both directions and scales; 0 of white noise."""
    total = maps[0].new_zeros(())
    for noise in maps:
        while True:
            for direction in (3, 2):
                total = total + (noise * noise.roll(1, dims=direction)).mean().square()
            if min(noise.shape[2:]) <= _COARSEST_PX:
                break
            noise = avg_pool2d(noise, 2)
    return total


def _wandered(point: Point, deviation: float, seed: int, step: int) -> Point:
    if deviation == 0:
        return point
    where = point.where
    added = draws.normal(seed, "project.w", [step], tuple(where.shape[1:]), where.device)
    return Point(where + deviation * added.to(where.dtype), point.noise)
