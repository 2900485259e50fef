"""The Fréchet distance between two image sets: FID when the features are Inception's, FD otherwise.

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))

(Heusel et al. 2017, eq. 6; the number of pytorch-fid and, up to the divisor of the covariance, of NVIDIA's code.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spider.heartbeat import Heartbeat, silent
from spider.metrics.moments import Moments


@dataclass(frozen=True)
class NormalLaw:
    """A normal law by what its distances need.

    Attributes:
        mean: float64 [d].
        factor: float64 [d, rank], R with R R^T the covariance.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, moments: Moments, ddof: int = 1) -> NormalLaw:
        """With these moments; covariances are divided by N - ddof."""
        return cls(moments.mean(), _factor(moments, ddof))


def frechet_distance(a: Moments, b: Moments, *, ddof: int = 1, heartbeat: Heartbeat = silent) -> float:
    """Squared distance between the normal laws with these moments, at least 0.

    Args:
        ddof: covariances are divided by N - ddof: 1 in TTUR and pytorch-fid, 0 in NVIDIA's code.
        heartbeat: called before each decomposition: in 2048 dimensions they take seconds.
    """
    laws = []
    for moments in (a, b):
        heartbeat()
        laws.append(NormalLaw.of(moments, ddof))
    heartbeat()
    return law_distance(*laws)


def law_distance(a: NormalLaw, b: NormalLaw) -> float:
    """Squared distance, at least 0.

    Also exact with fewer images than dimensions, where SciPy's matrix square root turns complex: with factors
    S = R R^T, the trace is the sum of the singular values of R_a^T R_b, and no square root is taken of a rounded zero.
    """
    trace_of_root = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    shift = (a.mean - b.mean).square().sum()
    distance = shift + a.factor.square().sum() + b.factor.square().sum() - 2 * trace_of_root
    return max(0.0, float(distance))


def too_few_images(count: int, dim: int) -> str | None:
    """A warning for a distance from so few images, or None. Its bias falls as 1/N and depends on the image set."""
    if count >= 2 * dim:
        return None
    singular = ", not even one: the covariance is singular" if count <= dim else ""
    return (
        f"{count} images are fewer than 2 for each of {dim} dimensions{singular}; "
        "biased upwards, compare only at equal counts"
    )


def _factor(moments: Moments, ddof: int) -> Tensor:
    """R [d, rank] with R R^T the covariance, without the directions in which it is only rounding."""
    values, vectors = torch.linalg.eigh(moments.covariance(ddof))
    # The covariance is a difference of sums, so its rounding is that of the squared mean too.
    largest = values[-1] + moments.mean().square().sum()
    kept = values > moments.dim * torch.finfo(torch.float64).eps * largest
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor
