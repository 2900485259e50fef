"""Authenticity: the share of samples that are no closer to a training image than another training image is to it.

A sample's nearest training image t is at distance d1; the training image nearest to t, other than t, is at d2. The
sample is authentic if d2 < d1 (Alaa et al. 2022, sec. 4; dgm-eval's AuthPct is 100 times this share). Copies are not
authentic, noise is. What a generator that learnt the law itself would get hangs on the data, often a half or less in
many dimensions; held-out real images say how much, and stand beside it in `details`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.distances import Nearest, nearest


def score_authenticity(c: Comparison) -> Score:
    """See above. The standard error is over samples; the training images are what they are. All ranks."""
    authentic = _authentic(c, c.nearest_training.samples)
    details = {}
    if c.held_out is not None:
        details["held_out"] = float(_authentic(c, c.nearest_training.scale).mean())
    return Score(
        float(authentic.mean()),
        stderr=share_stderr(int(authentic.sum()), len(authentic)),
        protocol={"training_images": len(c.learnt)},
        details=details,
    )


def share_stderr(count: int, of: int) -> float:
    """The standard error of a share; more than 0 also where it is 0 or 1 (Agresti and Coull 1998: 2 of each added)."""
    share = (count + 2) / (of + 4)
    return math.sqrt(share * (1 - share) / (of + 4))


def _authentic(c: Comparison, found: Nearest) -> NDArray[np.bool_]:
    """Of each image whose nearest training image was found. All ranks."""
    known = c.nearest_training
    if not known.held_out and len(known.unseen) == len(c.learnt):
        return np.asarray(known.unseen[found.indices] < found.distances)
    twins, place = np.unique(found.indices, return_inverse=True)
    gaps = nearest(c.learnt[twins], c.learnt, c.world, but=twins, progress=c.progress, heartbeat=c.heartbeat)
    return np.asarray(gaps.distances[place] < found.distances)
