"""Linear discriminant analysis in closed form: class means, and one covariance for all classes; and how sure it may be.

    scores of x = W x + b,   W_k = S^-1 (m_k - m),   b_k = -(m_k - m)^T S^-1 (m_k + m) / 2

m_k is the mean of class k, m the mean of these, and S the covariance of x about the mean of its class, shrunk towards a
multiple of the identity (Chen et al. 2010, "Shrinkage Algorithms for MMSE Covariance Estimation", OAS). These are the
log likelihoods of normal classes that all have S, but for a term that is the same for all classes: classes are alike
before x is seen, however many images they have. Sums are in float64.

Features are not normal, and few images tell little of S, so that the scores are far too sure: the cross-entropy of
images that were not learnt from may be ten times what it need be. One factor for all scores mends that (Guo et al.
2017, "On Calibration of Modern Neural Networks", temperature scaling).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from spider.judge.embed.cache import Features

_ROUNDING = 1e-9  # of the scatter, as a share of all squares
_HALVINGS = 30  # of an interval of length 1

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Classifier:
    """Scores [n, K] of x [n, D] are x @ weight.T + bias: weight [K, D], bias [K], float64."""

    weight: Wide
    bias: Wide

    def scores(self, rows: Features) -> Wide:
        """Of rows [n, D]."""
        found: Wide = rows @ self.weight.T + self.bias
        return found

    def scaled(self, factor: float) -> Classifier:
        """With scores multiplied."""
        return Classifier(self.weight * factor, self.bias * factor)


class ClassSums:
    """Sums over images, by class: how many, of x, and of x x^T over all classes together."""

    def __init__(self, classes: int, dim: int) -> None:
        self.counts = np.zeros(classes, np.int64)
        self.sums = np.zeros((classes, dim))
        self.outer = np.zeros((dim, dim))

    def add(self, rows: Features, labels: NDArray[np.int64]) -> None:
        """Take up rows [n, D] of these classes."""
        wide = rows.astype(np.float64)
        self.counts += np.bincount(labels, minlength=len(self.counts))
        np.add.at(self.sums, labels, wide)
        self.outer += wide.T @ wide

    def means(self) -> Wide:
        """Of each class, [K, D]; each has an image."""
        means: Wide = self.sums / self.counts[:, None]
        return means

    def classifier(self) -> Classifier | None:
        """See the module. None: no two images of a class differ, so that there is no covariance."""
        means = self.means()
        freedom = int(self.counts.sum()) - len(self.counts)
        scatter = self.outer - self.sums.T @ means
        if freedom < 1 or scatter.trace() <= _ROUNDING * self.outer.trace():
            return None
        middle = means.mean(0)
        weight = np.linalg.solve(shrunk(scatter / freedom, freedom), (means - middle).T).T
        return Classifier(weight, -(weight * (means + middle)).sum(1) / 2)


def shrunk(covariance: Wide, freedom: int) -> Wide:
    """A covariance [D, D] of so many degrees of freedom, shrunk by OAS: (1 - r) S + r tr(S) / D.

    r is that of Chen et al. 2010, equation 23, without the terms 2/D, as scikit-learn has it.
    """
    dim = len(covariance)
    trace, square = covariance.trace(), np.square(covariance).sum()
    spread = (freedom + 1) * (square - trace**2 / dim)
    share = 1.0 if spread <= 0 else min(1.0, (square + trace**2) / spread)
    found: Wide = (1 - share) * covariance + share * trace / dim * np.eye(dim)
    return found


def best_factor(scores: Wide, labels: NDArray[np.int64]) -> float:
    """By which scores [n, K] are multiplied so that the cross-entropy of the labels is least; at most 1.

    The cross-entropy is convex in the factor: where its slope is 0 is found by halving an interval.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(scores, labels, middle) > 0 else (middle, high)
    return high


def cross_entropy(scores: Wide, labels: NDArray[np.int64]) -> float:
    """The mean over rows of scores [n, K]."""
    return float((logsumexp(scores, axis=1) - _of_labels(scores, labels)).mean())


def _slope(scores: Wide, labels: NDArray[np.int64], factor: float) -> float:
    """Of the cross-entropy, by the factor."""
    expected = (softmax(scores * factor, axis=1) * scores).sum(1)
    return float((expected - _of_labels(scores, labels)).mean())


def _of_labels(scores: Wide, labels: NDArray[np.int64]) -> Wide:
    found: Wide = scores[np.arange(len(scores)), labels]
    return found
