"""Layers that never train, and what a beginning of given weights should therefore have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Expected:
    """What the weights have that a run begins with, if they are those that are meant.

    Attributes:
        frozen: by network (generator, discriminator), tensors that never train and mean nothing unless they are given.
        growth: of a generator that grows, how the names of its new head begin, which nobody has yet, and those of the
            layers before it, the last of which it leaves out.
    """

    frozen: Mapping[str, list[str]]
    growth: tuple[str, str] | None = None


NOTHING = Expected({})


def expected(networks: Mapping[str, nn.Module], config: InitChoice) -> Expected:
    """See the class. Of `networks` by name: generator, discriminator."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    stem: list[str] = getattr(generator, "must_be_given", [])
    frozen = {"generator": stem, "discriminator": names_of_first_layers(discriminator, config)}
    return Expected(frozen, getattr(generator, "growth", None))


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
