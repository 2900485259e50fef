"""Subsets with many images of some classes and few of others, as the world has them.

    n_r = N R^(-r / (C - 1)),   r = 0 .. C - 1

of the classes from the largest to the smallest (of equal ones the first first), N the size of the largest, R how many
times fewer the last one keeps: the rule of the long-tailed CIFAR sets (Cui et al. 2019). Of a class that has fewer
images, all are taken. Within a class the images are those of a subset: for one seed, the longer tail lies within the
shorter one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from shards.order import Indices


def long_tail_of(labels: Sequence[int], ranked: Indices, ratio: float) -> list[int]:
    """The chosen ones of `ranked`, which stand from first to last chosen and have these labels; -1 is never chosen."""
    counts = Counter(label for label in labels if label >= 0)
    if not counts:
        return []
    classes = sorted(counts, key=lambda label: (-counts[label], label))
    steps = np.arange(len(classes)) / max(1, len(classes) - 1)
    wanted = np.floor(np.round(counts[classes[0]] * ratio**-steps, 6)).astype(int)
    left = dict(zip(classes, np.maximum(wanted, 1).tolist(), strict=True))
    chosen = []
    for number, label in zip(ranked.tolist(), labels, strict=True):
        if left.get(label, 0):
            left[label] -= 1
            chosen.append(number)
    return chosen
