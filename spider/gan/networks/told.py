"""What networks are told of an image, as one vector: of its class, its instance, or both, added or side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spider.gan.networks.classes import ClassEmbedding
from spider.gan.outputs import Condition, ConditionShape


class Told(nn.Module):
    """Condition -> [N, dim]: a vector of the class, then a dense layer of the instance's feature, where there are such.

    That is BigGAN's way.

    Args:
        embedding: of the class. Without an instance it may be of one class, which all images then have.
        instance: a dense layer of `Condition.features`.

    Attributes:
        dim: of the vector.
    """

    def __init__(self, embedding: ClassEmbedding | None, instance: nn.Linear | None) -> None:
        super().__init__()
        self.embedding, self.instance = embedding, instance
        self.dim = (0 if embedding is None else embedding.weight.shape[1]) + (instance.out_features if instance else 0)

    def forward(self, condition: Condition, count: int) -> Tensor:
        """See the class. `count`: N."""
        parts = []
        if self.embedding is not None:
            if len(self.embedding.weight) == 1:
                labels = torch.zeros(count, dtype=torch.int64, device=self.embedding.weight.device)
                condition = Condition(labels, condition.features)
            parts.append(self.embedding(condition))
        if self.instance is not None:
            parts.append(self.instance(instance_features(condition)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class InstanceEmbedding(nn.Module):
    """The sum of a linear map of an instance's features and, with classes, of the class's vector: -> [N, dim].

    Args:
        std: of each number of the vectors, at first: features are of length 1.
    """

    def __init__(self, told: ConditionShape, dim: int, *, std: float = 1.0) -> None:
        super().__init__()
        self.classes = ClassEmbedding(told.classes, dim, std=std) if told.classes else None
        self.instance = nn.Linear(told.features, dim)
        nn.init.normal_(self.instance.weight, std=std)
        nn.init.zeros_(self.instance.bias)

    def forward(self, condition: Condition) -> Tensor:
        """See the class."""
        vector: Tensor = self.instance(instance_features(condition))
        return vector if self.classes is None else vector + self.classes(condition)


def told_embedding(told: ConditionShape, dim: int, *, std: float = 1.0) -> ClassEmbedding | InstanceEmbedding | None:
    """A vector of `dim` numbers for what an image is told, which begin with about this standard deviation."""
    if told.features:
        return InstanceEmbedding(told, dim, std=std)
    return ClassEmbedding(told.classes, dim, std=std) if told.classes else None


def instance_features(condition: Condition) -> Tensor:
    """Of the instance of each image, [N, D]."""
    if condition.features is None:
        raise ValueError("a network that is told an instance was given no features")
    return condition.features
