"""The Fréchet distance between two image sets: FID when the features are Inception's, FD otherwise.

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))

(Heusel et al. 2017, eq. 6; the number of pytorch-fid and, up to the divisor of the covariance, of NVIDIA's code.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.moments import Moments
from untrusted.counts import counted

Matrix = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
_LOST = 1e-9  # of the sum of roots, as much as their rounding may come to


@dataclass(frozen=True)
class NormalLaw:
    """A normal law by what its distances need.

    Attributes:
        mean: float64 [d].
        factor: float64 [d, rank], R with R R^T the covariance: its Cholesky factor where it has full rank.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, moments: Moments, ddof: int = 1) -> NormalLaw:
        """With these moments; covariances are divided by N - ddof."""
        mean, covariance = moments.mean(), moments.covariance(ddof)
        return cls(mean, _factor(mean, covariance, may_be_regular=moments.count > moments.dim))

    @classmethod
    def given(cls, mean: Matrix, covariance: Matrix) -> NormalLaw:
        """With a mean float64 [d] and a covariance float64 [d, d], of any number of vectors."""
        centre = torch.from_numpy(mean)
        return cls(centre, _factor(centre, torch.from_numpy(covariance), may_be_regular=True))

    @classmethod
    def of_few(cls, vectors: Features, ddof: int = 1) -> NormalLaw:
        """Of vectors [N, d], N above `ddof`, without their covariance: where N <= d, the factor [d, N - 1] is smaller.

        A reflection turns the sum of the vectors into the first one. The others then have the scatter of all about
        their mean, and full rank, which N centred vectors do not have.
        """
        x = torch.from_numpy(vectors).double()
        mean = x.mean(dim=0)
        normal = torch.full((len(x), 1), len(x) ** -0.5, dtype=x.dtype)
        normal[0] += 1
        centred = x - mean
        reflected = centred - normal * (2 / normal.square().sum() * (normal * centred).sum(dim=0))
        return cls(mean, reflected[1:].T / (len(x) - ddof) ** 0.5)


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

    With factors S = R R^T, the trace is the sum of the singular values of R_a^T R_b. So it is also exact with fewer
    images than dimensions, where SciPy's matrix square root turns complex.
    """
    trace_of_root = _sum_of_singular_values(a.factor.numpy().T @ b.factor.numpy())
    shift = (a.mean - b.mean).square().sum()
    distance = shift + a.factor.square().sum() + b.factor.square().sum() - 2 * trace_of_root
    return max(0.0, float(distance))


def too_few_images(count: int, dim: int) -> str | None:
    """A warning for a distance from so few images, or None. Its bias falls as 1/N and depends on the image set."""
    few = few_images(count, dim)
    return few and f"{counted(count, 'image')} {'is' if count == 1 else 'are'} {few}"


def few_images(count: int, dim: int) -> str | None:
    """The same without the count, for a line that several sets share."""
    if count >= 2 * dim:
        return None
    return f"few for {dim:,} dimensions, which biases upwards: compare at equal counts only, or kid"


def _factor(mean: Tensor, covariance_: Tensor, *, may_be_regular: bool) -> Tensor:
    """R [d, rank] with R R^T the covariance, without the directions in which it is only rounding."""
    covariance = covariance_.numpy()
    # The covariance is a difference of sums, so its rounding is that of the squared mean too.
    noise = len(mean) * _EPS * (float(np.linalg.norm(covariance, 1)) + float(mean.square().sum()))
    factor = _cholesky(covariance, noise) if may_be_regular else None
    if factor is None:
        values, vectors = np.linalg.eigh(covariance)
        kept = values > noise
        factor = vectors[:, kept] * np.sqrt(values[kept])
    return torch.from_numpy(factor)


def _cholesky(covariance: Matrix, noise: float) -> Matrix | None:
    """The lower triangular factor, in a tenth of the time that `eigh` takes; None where an eigenvalue may be noise."""
    from scipy.linalg import lapack  # a quarter of a second, which trainings and dry runs need not wait

    factor, failed = lapack.dpotrf(covariance, lower=True)
    if failed:
        return None
    norm = float(np.linalg.norm(covariance, 1))
    reciprocal_condition, _ = lapack.dpocon(factor, norm, uplo="L")
    return factor if norm * reciprocal_condition > noise else None  # the left side estimates the least eigenvalue


def _sum_of_singular_values(matrix: Matrix) -> float:
    """Of [m, n], to nine digits or better.

    The eigenvalues of M M^T are had in a third of the time that the singular values of M take. But the rounding of each
    is that of the largest, and grows when its root is taken. Where the roots could lose more than the ninth digit of
    their sum, because some are almost 0, the singular values are computed as such.
    """
    if 0 in matrix.shape:
        return 0.0
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares = np.linalg.eigvalsh(wide @ wide.T)
    rounding = np.sqrt(len(squares)) * _EPS * squares[-1]
    if squares[0] > 4 * rounding:
        roots = np.sqrt(squares)
        if (rounding / roots).sum() < _LOST * roots.sum():
            return float(roots.sum())
    return float(np.linalg.svd(matrix, compute_uv=False).sum())
