"""The generator's own sample that is nearest to a given image: where a search begins, and what it is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shards.progress import Bar
from spider.gan.sources.frozen import BLOCK, FrozenGenerator
from spider.pictures.projection.judge import Closeness, Judge, maps_of

SEED = 0  # the evaluation seed that numbers samples, as `spider generate` writes them
_AT_ONCE = 16  # images whose maps are in memory


@dataclass(frozen=True)
class Nearest:
    """A sample: its number, its image [1, C, H, W], and how near it is."""

    number: int
    image: Tensor
    closeness: Closeness


@torch.no_grad()
def nearest_samples(
    generator: FrozenGenerator,
    judges: Sequence[Judge],
    labels: Sequence[int | None],
    count: int,
    *,
    progress: bool,
) -> list[Nearest]:
    """Of each judge's image, the nearest one by distance among samples 0 .. count - 1.

    Args:
        labels: the class of each image, of which the samples are then; None: the generator is told none.
    """
    best: list[Nearest | None] = [None] * len(judges)
    with Bar(total=count * len(set(labels)), desc="nearest samples", unit="img", shown=progress) as bar:
        for label in dict.fromkeys(labels):
            asked = [number for number, each in enumerate(labels) if each == label]
            for start in range(0, count, BLOCK):
                numbers = range(start, start + BLOCK)
                made = generator.images(SEED, numbers, generator.told(SEED, numbers, label))[: count - start]
                for at in range(0, len(made), _AT_ONCE):
                    part = made[at : at + _AT_ONCE]
                    maps = maps_of(part, judges[0].by)
                    for which in asked:
                        found = _nearest(judges[which], part, maps, start + at)
                        before = best[which]
                        if before is None or found.closeness.distance < before.closeness.distance:
                            best[which] = found
                bar.update(len(made))
    return [each for each in best if each is not None]


def _nearest(judge: Judge, images: Tensor, maps: Sequence[Tensor], first: int) -> Nearest:
    distances = judge.by.between(maps, judge.maps)
    row = int(distances.argmin())
    image = images[row : row + 1]
    l2 = float((image - judge.target).square().mean())
    return Nearest(first + row, image, Closeness(float(distances[row]), l2))
