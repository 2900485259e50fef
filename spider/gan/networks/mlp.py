"""Dense networks, for points and tiny images: the smallest that a method can be seen in."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from spider.gan.networks.mlp_config import MlpConfig
from spider.gan.networks.slicing import Sliceable, read_dense, said
from spider.gan.networks.told import told_embedding
from spider.gan.outputs import Condition, ConditionShape, DOut, GOut

_SLOPE = 0.2
_CLASS_DIM = 16


class MlpGenerator(nn.Module):
    """[N, *input_shape] -> GOut with images [N, *image_shape], which are not squashed."""

    def __init__(
        self,
        config: MlpConfig,
        input_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        frontend: nn.Module | None,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.frontend = frontend if frontend is not None else nn.Identity()
        self.embedding = told_embedding(told, _CLASS_DIM)
        inputs = math.prod(input_shape) + (_CLASS_DIM if self.embedding else 0)
        self.layers = _hidden(config, inputs)
        self.last = nn.Linear(config.hidden, math.prod(image_shape))

    def forward(self, source: Tensor, condition: Condition) -> GOut:
        """See the class."""
        x = self.frontend(source).flatten(1)
        if self.embedding is not None:
            x = torch.cat([x, self.embedding(condition).to(x.dtype)], dim=1)
        return GOut(self.last(self.layers(x)).unflatten(1, self.image_shape))


class MlpDiscriminator(Sliceable):
    """[N, C, H, W] -> DOut with logits [N, 1]; with classes a projection (Miyato & Koyama 2018)."""

    def __init__(self, config: MlpConfig, image_shape: tuple[int, int, int], told: ConditionShape) -> None:
        super().__init__()
        self.layers = _hidden(config, math.prod(image_shape))
        self.last = nn.Linear(config.hidden, 1)
        self.features = config.hidden
        self.embedding = told_embedding(told, config.hidden, std=config.hidden**-0.5)

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        h = self.layers(images.flatten(1))
        told = self.embedding is not None
        weight = self.last.weight if self.embedding is None else self.last.weight + self.embedding(condition)
        return said([read_dense(h, weight, self.last.bias, sliced=self.sliced, of_each=told)], {"last": h})

    def layers_from_images(self) -> list[list[nn.Module]]:
        """Each hidden layer, and the end."""
        dense = [[layer] for layer in self.layers if isinstance(layer, nn.Linear)]
        return [*cast(list[list[nn.Module]], dense), [self.last, *([self.embedding] if self.embedding else [])]]


def _hidden(config: MlpConfig, inputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(config.layers):
        layers += [nn.Linear(inputs, config.hidden), nn.LeakyReLU(_SLOPE)]
        inputs = config.hidden
    return nn.Sequential(*layers)
