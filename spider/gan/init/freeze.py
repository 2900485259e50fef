"""Layers of a discriminator that never train."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from spider.errors import SpiderUsageError
from spider.gan.init.config import InitChoice


def freeze_first_layers(discriminator: nn.Module, config: InitChoice) -> None:
    """Switch off the gradients of the first `init.freeze_d` layers, from the images on (FreezeD, Mo et al. 2020).

    Raises SpiderUsageError: the network has not so many, or does not say what its layers are.
    """
    if not config.freeze_d:
        return
    listed = getattr(discriminator, "layers_from_images", None)
    if listed is None:
        raise SpiderUsageError(
            f"init.freeze_d={config.freeze_d}: {type(discriminator).__name__} has no layers_from_images()"
        )
    layers: Sequence[Sequence[nn.Module]] = listed()
    if config.freeze_d >= len(layers):
        raise SpiderUsageError(
            f"init.freeze_d={config.freeze_d}: of the discriminator's {len(layers)} layers at most {len(layers) - 1} "
            "can be frozen"
        )
    for layer in layers[: config.freeze_d]:
        for module in layer:
            module.requires_grad_(False)
