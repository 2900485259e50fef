"""C_T: are samples nearer to the training images than held-out real images are? Far below 0: they are copies.

The space is cut into cells by k-means of the training images. In each cell, the distances to the nearest training image
of samples and of held-out images are compared by Mann and Whitney's U, as a number of standard deviations Z; C_T is the
mean of Z over cells, weighed by their shares of the held-out images (Meehan et al. 2020; as dgm-eval computes it: 3
cells, on the first 64 principal components, cells of 20 samples or fewer left out). 0 is one law; above 0, samples lie
off the data.

It needs held-out images. Training images that leave themselves out cannot stand for them here: principal components
are fitted to the training images, which therefore lie farther apart along them than fresh images do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spider import draws
from spider.errors import SpiderUsageError
from spider.judge.embed.cache import Features
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.distances import nearest
from spider.judge.metrics.moments import moments_of

CELLS = 3
COMPONENTS = 64
FEW = 20  # samples of a cell; one that has no more is left out
_STARTS = 10  # of k-means
_NO_HELD_OUT = "undefined: it needs held-out images, a reference other than the training images"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """What was found in one cell.

    Attributes:
        held_out, samples: how many of them lie in it.
        z: of U; None where a cell has too few samples or no held-out images.
        variance: of z, over the images.
    """

    held_out: int
    samples: int
    z: float | None
    variance: float


def mann_whitney_z(samples: Floats, held_out: Floats) -> tuple[float, float]:
    """How many standard deviations U of samples [m] over held-out [n] is above its mean under one law; z's variance.

    U counts the pairs in which the sample is larger, ties as a half; its mean is corrected for continuity as in the
    authors' code. The variance of z is 1 under one law; in general it is DeLong's (1988), from how the shares of pairs
    vary among samples and among held-out images.
    """
    m, n = len(samples), len(held_out)
    above_held_out, below_samples = _shares(samples, held_out), 1 - _shares(held_out, samples)
    u = m * n * float(above_held_out.mean())
    scale = m * n * (m + n + 1) / 12
    variance = sum(
        float(shares.var(ddof=1)) / len(shares) for shares in (above_held_out, below_samples) if len(shares) > 1
    )
    return (u - (m * n / 2 - 0.5)) / math.sqrt(scale), (m * n) ** 2 * variance / scale


def score_ct(c: Comparison) -> Score:
    """See above. All ranks."""
    if c.held_out is None:
        return Score(math.nan, warnings=[_NO_HELD_OUT])
    training, samples, held_out = _principal([c.learnt, c.samples, c.held_out], c)
    places = _cells([training, samples, held_out], c)
    cells = [
        _cell(training[places[0] == k], samples[places[1] == k], held_out[places[2] == k], c) for k in range(CELLS)
    ]
    counted = [cell for cell in cells if cell.z is not None]
    weights = np.array([cell.held_out for cell in counted], np.float64)
    weights /= max(weights.sum(), 1)
    value = sum(weight * (cell.z or 0.0) for weight, cell in zip(weights, counted, strict=True))
    variance = sum(weight**2 * cell.variance for weight, cell in zip(weights, counted, strict=True))
    left_out = len(cells) - len(counted)
    return Score(
        float(value) if counted else math.nan,
        stderr=math.sqrt(variance) if counted else None,
        protocol={
            "cells": CELLS,
            "components": training.shape[1],
            "held_out_images": len(held_out),
        },
        warnings=[f"{left_out} of {CELLS} cells left out: no more than {FEW} samples, or no held-out images"]
        if left_out
        else [],
        details={"cells": [{"held_out": cell.held_out, "samples": cell.samples, "z": cell.z} for cell in cells]},
    )


def _principal(sets: list[Features], c: Comparison) -> list[Features]:
    """The sets along the first principal components of the first one, float32 [.., at most COMPONENTS]. All ranks."""
    training = sets[0]
    if len(training) < CELLS:
        raise SpiderUsageError(f"C_T needs at least {CELLS} training images, found {len(training)}")
    if training.shape[1] <= COMPONENTS:
        return sets
    moments = moments_of(training, c.world, heartbeat=c.heartbeat)
    kept = min(COMPONENTS, len(training) - 1)
    axes = np.linalg.eigh(moments.covariance().numpy()).eigenvectors[:, -kept:]
    mean = moments.mean().numpy()
    return [((features - mean) @ axes).astype(np.float32) for features in sets]


def _cells(sets: list[Features], c: Comparison) -> list[NDArray[np.int64]]:
    """The cell of each image, by k-means of the first set. All ranks; rank 0 decides."""
    places = [torch.zeros(len(features), dtype=torch.int64) for features in sets]
    if c.world.is_main:
        from sklearn.cluster import KMeans  # half a second, which other metrics need not wait

        state = int(draws.generator(c.seed, "metrics.ct").integers(2**31))
        means = KMeans(CELLS, n_init=_STARTS, random_state=state).fit(sets[0])
        places = [torch.from_numpy(means.predict(features).astype(np.int64)) for features in sets]
    return [c.world.broadcast(place).cpu().numpy() for place in places]


def _cell(training: Features, samples: Features, held_out: Features, c: Comparison) -> Cell:
    if len(samples) <= FEW or len(held_out) == 0:
        return Cell(len(held_out), len(samples), None, 0.0)
    of_samples = nearest(samples, training, c.world, heartbeat=c.heartbeat).distances
    of_held_out = nearest(held_out, training, c.world, heartbeat=c.heartbeat).distances
    return Cell(len(held_out), len(samples), *mann_whitney_z(of_samples, of_held_out))


def _shares(values: Floats, among: Floats) -> Floats:
    """The share of `among` that each value is above, ties as a half."""
    ordered = np.sort(among)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(below / (2 * len(ordered)))
