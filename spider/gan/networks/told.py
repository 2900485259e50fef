"""What BigGAN's networks are told of an image, as one vector: of its class, its instance, or both side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spider.gan.networks.classes import ClassEmbedding
from spider.gan.outputs import Condition


class Told(nn.Module):
    """Condition -> [N, dim]: a vector of the class, then a dense layer of the instance's feature, where there are such.

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
            if condition.features is None:
                raise ValueError("a network with instances was given no features")
            parts.append(self.instance(condition.features))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
