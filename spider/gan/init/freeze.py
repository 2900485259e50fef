"""Layers of a discriminator that never train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from spider.errors import SpiderUsageError
from spider.gan.init.config import InitChoice
from spider.gan.saved import saved_tensors


def freeze_first_layers(discriminator: nn.Module, config: InitChoice) -> None:
    """Switch off the gradients of the first `init.freeze_d` layers, from the images on (FreezeD, Mo et al. 2020).

    Raises SpiderUsageError: the network has not so many, or does not say what its layers are.
    """
    for module in _first_layers(discriminator, config):
        module.requires_grad_(False)


def names_that_must_be_given(networks: Mapping[str, nn.Module], config: InitChoice) -> dict[str, list[str]]:
    """Tensors that never train and mean something only if they are given, by network: generator, discriminator."""
    stem: list[str] = getattr(networks["generator"], "must_be_given", [])
    return {"generator": stem, "discriminator": names_of_first_layers(networks["discriminator"], config)}


def names_of_first_layers(discriminator: nn.Module, config: InitChoice) -> list[str]:
    """The parameters of those layers that a checkpoint holds, by name."""
    parameters = {id(p) for module in _first_layers(discriminator, config) for p in module.parameters()}
    saved = saved_tensors(discriminator)
    return [name for name, p in discriminator.named_parameters() if id(p) in parameters and name in saved]


def _first_layers(discriminator: nn.Module, config: InitChoice) -> list[nn.Module]:
    if not config.freeze_d:
        return []
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
    return [module for layer in layers[: config.freeze_d] for module in layer]
