"""Points of a plane as images of two grey pixels, the first x, the second y: to see what a method does.

-1 to 1 is stored as 0 to 255, so a step is 0.008. The built-in sets have 20,000 points each, the same on every call.

gaussians8     eight normal laws on a circle of radius 0.7, standard deviation 0.04; labels 0 to 7
gaussians25    25 on a grid of steps of 0.4, standard deviation 0.03; labels 0 to 24
unbalanced     the eight of gaussians8, each half as frequent as the one before; labels 0 to 7
swissroll      a spiral of one and a half turns, standard deviation 0.02; no labels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COUNT = 20_000


@dataclass(frozen=True)
class Modes:
    """Where the points of a set gather.

    Attributes:
        centres: [K, 2].
        std: of each normal law.
        shares: of the points, [K].
    """

    centres: NDArray[np.float64]
    std: float
    shares: NDArray[np.float64]


def modes(name: str) -> Modes | None:
    """Of a built-in set; None: it has none."""
    if name == "gaussians25":
        steps = np.linspace(-0.8, 0.8, 5)
        return Modes(np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2), 0.03, np.full(25, 1 / 25))
    angles = 2 * np.pi * np.arange(8) / 8
    circle = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    halves = 0.5 ** np.arange(8)
    shares = {"gaussians8": np.full(8, 1 / 8), "unbalanced": halves / halves.sum()}.get(name)
    return None if shares is None else Modes(circle, 0.04, shares)


def points(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, list[str]]:
    """A built-in set: pixels uint8 [N, 1, 2], labels [N] or None, and the names of the classes."""
    rng = np.random.Generator(np.random.Philox(key=sum(map(ord, name))))
    law = modes(name)
    if law is None:
        turns = np.sqrt(rng.random(COUNT)) * 3 * np.pi  # evenly along the spiral, whose arms lengthen outwards
        spiral = turns[:, None] / (3 * np.pi) * np.stack([np.cos(turns), np.sin(turns)], axis=-1)
        return stored(0.9 * spiral + 0.02 * rng.standard_normal((COUNT, 2))), None, []
    labels = rng.choice(len(law.centres), COUNT, p=law.shares)
    drawn = law.centres[labels] + law.std * rng.standard_normal((COUNT, 2))
    return stored(drawn), labels.astype(np.int64), [str(number) for number in range(len(law.centres))]


def stored(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Points [N, 2] of -1 to 1 as uint8 [N, 1, 2]."""
    return np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8)[:, None, :]
