"""Whether the two players are of like size: a generator cannot learn from a discriminator far above or below it."""

from __future__ import annotations

from torch import nn

from spider.gan.networks.config import NetworkChoice
from spider.gan.saved import saved_tensors

_TIMES = 10  # as many parameters, and more, are worth a word


def remarks_on_sizes(
    generator: nn.Module, discriminator: nn.Module, g_choice: NetworkChoice, d_choice: NetworkChoice
) -> list[str]:
    """A line if one player has more than ten times as many parameters as the other, with the keys that say so.

    Pretrained networks that a player looks through do not count. None for two networks of one kind and one width: they
    are as their authors proportioned them.
    """
    if (g_choice.kind, getattr(g_choice, "width", None)) == (d_choice.kind, getattr(d_choice, "width", 0)):
        return []
    sizes = {
        role: (_size(module), f"{role}.{_size_key(choice)}")
        for role, module, choice in (
            ("generator", generator, g_choice),
            ("discriminator", discriminator, d_choice),
        )
    }
    small, large = sorted(sizes, key=lambda role: sizes[role][0])
    (few, small_key), (many, large_key) = sizes[small], sizes[large]
    if many <= _TIMES * few:
        return []
    times = f"{many / max(few, 1):,.0f} times as many parameters"
    return [f"the {large} has {times} ({many:,}) as the {small} ({few:,}): compare {large_key} and {small_key}"]


def _size(network: nn.Module) -> int:
    held = saved_tensors(network)
    return sum(parameter.numel() for name, parameter in network.named_parameters() if name in held)


def _size_key(choice: NetworkChoice) -> str:
    return "width" if "width" in type(choice).model_fields else "kind"
