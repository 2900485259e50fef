"""Weights that the layers of a network begin with, where they are not those of PyTorch's layers.

u and v of spectral norms are found again for them. Biases, but those of batch norms, stay.
"""

from __future__ import annotations

from torch import nn

from spider.gan.networks.classes import ClassEmbedding
from spider.gan.networks.norm import GlobalBatchNorm
from spider.gan.networks.spectral import Spectral

_STD = 0.02


def begin_orthogonal(network: nn.Module) -> None:
    """Orthogonal weights (Saxe et al. 2014) of all convolutions, dense layers and vectors of classes, as BigGAN's."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | ClassEmbedding):
            nn.init.orthogonal_(layer.weight)
            _found_again(layer)


def begin_normal(network: nn.Module) -> None:
    """Convolutions N(0, 0.02), scales of batch norms N(1, 0.02), shifts 0, as FastGAN's (models.py, weights_init).

    The laws are DCGAN's (Radford et al. 2016). Dense layers and vectors of classes stay.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, _STD)
            _found_again(layer)
        elif isinstance(layer, GlobalBatchNorm) and layer.weight is not None and layer.bias is not None:
            nn.init.normal_(layer.weight, 1.0, _STD)
            nn.init.zeros_(layer.bias)


def _found_again(layer: nn.Module) -> None:
    if isinstance(layer, Spectral):
        layer.begin()
