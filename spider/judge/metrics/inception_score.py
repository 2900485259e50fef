"""The Inception score: how sure a classifier is of each image, and how many classes the images spread over.

    exp(E_x KL(p(y | x) || p(y)))     (Salimans et al. 2016), mean over splits of the images

It sees no reference set. Between 1 and the number of classes; means little for images that are not like ImageNet's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from spider import draws
from spider.errors import SpiderUsageError
from spider.judge.embed.cache import Features


@dataclass(frozen=True)
class InceptionScore:
    """Mean and standard deviation (population) over the splits."""

    value: float
    std: float


def inception_score(logits: Features, *, splits: int = 10, shuffle_seed: int | None = None) -> InceptionScore:
    """Score of class logits float32 [N, classes], over `splits` runs of images.

    Split s holds images N s // splits to N (s + 1) // splits - 1. That is the cut of torch-fidelity and of NVIDIA's
    code, also where the splits do not divide N.

    Args:
        shuffle_seed: shuffle the images before splitting, as torch-fidelity does, by a permutation that is drawn from
            this seed: another one than torch-fidelity's, so that values differ by the splits' noise. None splits
            them in their order, as NVIDIA's code does, which is wrong for images sorted by class.
    """
    if len(logits) < splits:
        raise SpiderUsageError(
            f"an Inception score over {splits} splits needs at least {splits} images, got {len(logits)}"
        )
    order = np.arange(len(logits))
    if shuffle_seed is not None:
        order = draws.generator(shuffle_seed, "metrics.is").permutation(order)
    edges = [len(order) * s // splits for s in range(splits + 1)]
    parts = [order[start:stop] for start, stop in pairwise(edges)]
    scores = np.array([_score(logits[part].astype(np.float64)) for part in parts])
    return InceptionScore(float(scores.mean()), float(scores.std()))


def _score(logits: NDArray[np.float64]) -> float:
    """exp of the mean KL divergence between p(y | x) and p(y)."""
    log_p = torch.from_numpy(logits).log_softmax(dim=1)  # [n, classes]
    log_marginal = log_p.logsumexp(dim=0) - math.log(len(log_p))
    return math.exp(float((log_p.exp() * (log_p - log_marginal)).sum(dim=1).mean()))
