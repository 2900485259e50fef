"""What networks know of a class: a vector that is learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from spider.gan.outputs import Condition


class ClassEmbedding(nn.Module):
    """A vector for each class: Condition -> [N, dim]. Between classes, the mean of their vectors by shares.

    Args:
        mean, std: of the normal law that the vectors begin with.
    """

    def __init__(self, classes: int, dim: int, *, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(mean + std * torch.randn(classes, dim))

    def forward(self, condition: Condition) -> Tensor:
        """See the class."""
        return vectors_of_classes(condition, self.weight)


def vectors_of_classes(condition: Condition, weight: Tensor) -> Tensor:
    """Rows of a weight [classes, dim] -> [N, dim]. Between classes, the mean of the rows by shares."""
    labels = _labels(condition)
    if labels.is_floating_point():
        return labels.to(weight.dtype) @ weight
    return embedding(labels, weight)


def class_shares(condition: Condition, classes: int) -> Tensor:
    """The share that each image has of each class: of its own 1, as bool. Between classes float. [N, classes]."""
    labels = _labels(condition)
    return labels if labels.is_floating_point() else labels[:, None] == torch.arange(classes, device=labels.device)


def _labels(condition: Condition) -> Tensor:
    if condition.labels is None:
        raise ValueError("a network with classes was given no labels")
    return condition.labels
