"""What of a network is saved: its tensors, but for those of a part that names its weights by digest.

Such a part (a pretrained backbone) has an attribute `weights_digest`, a line of text that no other weights have: the
sha256 of their file, or `spider.tensors.sha256_of_state_dict` of them. It never trains. Who builds the network brings
its tensors each time, so no checkpoint holds them; it holds the digest, which is compared with that of the weights at
hand.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def named_weights(networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """The digest of each part of networks that names its weights, by the name of the part: `discriminator.backbone`."""
    return {
        f"{name}.{path}".rstrip("."): f"weights {part.weights_digest}"
        for name, network in networks.items()
        for path, part in network.named_modules()
        if _is_named(part)
    }


def saved_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that a checkpoint holds, by name, without copying them."""
    elsewhere = {id(tensor) for part in _named_parts(network) for tensor in part.state_dict(keep_vars=True).values()}
    tensors = network.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in tensors.items() if id(tensor) not in elsewhere}


def load_saved(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `saved_tensors` gave. Raises RuntimeError if names or shapes are others."""
    own, saved = network.state_dict(), saved_tensors(network)
    network.load_state_dict({**{name: own[name] for name in own.keys() - saved.keys()}, **tensors})


def freeze_named(network: nn.Module) -> None:
    """Switch off the gradients of the parts that name their weights."""
    for part in _named_parts(network):
        part.requires_grad_(False)


def copy_of(network: Network) -> Network:
    """A copy that shares the parts that name their weights: they are the same for good."""
    shared = {id(module): module for part in _named_parts(network) for module in part.modules()}
    return copy.deepcopy(network, shared)


def _named_parts(network: nn.Module) -> Iterator[nn.Module]:
    return (part for part in network.modules() if _is_named(part))


def _is_named(part: nn.Module) -> bool:
    return hasattr(part, "weights_digest")
