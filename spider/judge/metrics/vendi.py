"""The Vendi score: how many different images the samples are worth, from 1 (all alike) to their number. No reference.

    exp(-sum over k of w_k log w_k),   w the eigenvalues of (1 / N) sum of x x^T,   |x| = 1

(Friedman and Dieng 2023, order 1, with the cosine as the kernel; the number of the authors' package and of dgm-eval).
It grows with N and hangs on the embedding: the score of as many real images (`spider evaluate IMAGES --metrics vendi`)
says what to expect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.distances import unit_length
from spider.judge.metrics.moments import moments_of

if TYPE_CHECKING:
    from cluster.world import World


_SOME = 2048  # images


@dataclass(frozen=True)
class Diversity:
    """The score, and its standard error over images."""

    value: float
    stderr: float


def vendi(features: Features, world: World, *, heartbeat: Heartbeat = silent) -> Diversity:
    """Of float32 [N, d]. All ranks.

    The standard error is that of the first order: an image x moves the entropy by -x^T log(S) x less the entropy.
    """
    x = unit_length(features)
    spectrum, surprise = _few(x) if len(x) <= x.shape[1] else _many(x, world, heartbeat)
    entropy = -float((spectrum * np.log(spectrum)).sum())
    value = math.exp(entropy)
    return Diversity(value, value * float(surprise.std()) / math.sqrt(len(x)))


def score_vendi(c: Comparison) -> Score:
    """See above. All ranks."""
    found = vendi(c.samples, c.world, heartbeat=c.heartbeat)
    return Score(found.value, stderr=found.stderr, protocol={"kernel": "cosine", "order": 1, "images": len(c.samples)})


Floats = NDArray[np.float64]


def _many(x: Features, world: World, heartbeat: Heartbeat) -> tuple[Floats, Floats]:
    """The eigenvalues, and -x^T log(S) x of some images, which are enough for its spread, from S [d, d]."""
    second = moments_of(x, world, heartbeat=heartbeat).outer.numpy() / len(x)
    heartbeat()
    values, vectors = _positive(*np.linalg.eigh(second))
    some = x[np.linspace(0, len(x) - 1, min(len(x), _SOME)).astype(int)]
    return values, -np.square(some @ vectors) @ np.log(values)


def _few(x: Features) -> tuple[Floats, Floats]:
    """The same from the products of all pairs [N, N], which have the same eigenvalues."""
    gram = x.astype(np.float64) @ x.T.astype(np.float64) / len(x)
    values, vectors = _positive(*np.linalg.eigh(gram))
    return values, -len(x) * np.square(vectors) @ (values * np.log(values))


def _positive(values: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues that are more than rounding, and their vectors."""
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return values[kept], vectors[:, kept]
