"""How far it is from one image of an interpolation to the next, as people would see it.

An even way has steps of about one length. A generator that knows few images stays at one of them and then jumps to
another: its largest step is many times the mean one, and as long as the way between unrelated images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from spider.backbones.perceptual import PerceptualDistance
from spider.precision import exact_float32

Pair = tuple[int, int]  # numbers of two images

_AT_ONCE = 32  # pairs


@dataclass(frozen=True)
class Steps:
    """Distances between neighbouring images.

    Attributes:
        label: what they are, e.g. `PD[efficientnet]`.
        values: of every step.
        largest: which step is the longest: the names of its two images.
        between_inputs: the mean distance between the images of the inputs, none of which is a blend.
    """

    label: str
    values: list[float]
    largest: tuple[str, str]
    between_inputs: float

    @property
    def mean(self) -> float:
        """Of the values."""
        return sum(self.values) / len(self.values)

    def told(self) -> str:
        """In words, for a terminal."""
        longest, (first, second) = max(self.values), self.largest
        return (
            f"{self.label} from an image to the next: {self.mean:.3g} on average, {longest:.3g} at most "
            f"({first} to {second}); {self.between_inputs:.3g} between the inputs"
        )


def measure_steps(
    images: Tensor,
    names: Sequence[str],
    pairs: Sequence[Pair],
    inputs: Sequence[int],
    by: PerceptualDistance,
) -> Steps:
    """Of images float [N, C, H, W], -1 to 1.

    Args:
        names: of the images.
        pairs: numbers of images between which there is a step.
        inputs: numbers of the images that are no blends, two or more.
    """
    values = _distances(images, pairs, by)
    longest = max(range(len(pairs)), key=values.__getitem__)
    first, second = (names[number] for number in pairs[longest])
    apart = _distances(images, list(combinations(inputs, 2)), by)
    return Steps(by.label, values, (first, second), sum(apart) / len(apart))


@torch.no_grad()
def _distances(images: Tensor, pairs: Sequence[Pair], by: PerceptualDistance) -> list[float]:
    ends = torch.tensor(pairs)
    with exact_float32():
        return [
            value
            for few in torch.split(ends, _AT_ONCE)
            for value in by(images[few[:, 0]], images[few[:, 1]]).double().tolist()
        ]


def grid_steps(side: int) -> list[Pair]:
    """Of a square grid by rows: from each image to the one on its right, and to the one below it."""
    numbers = range(side**2)
    right = [(number, number + 1) for number in numbers if (number + 1) % side]
    return right + [(number, number + side) for number in numbers if number + side < side**2]


def loop_steps(count: int) -> list[Pair]:
    """Of a loop: from each frame to the next, and from the last to the first."""
    return [(number, (number + 1) % count) for number in range(count)]
