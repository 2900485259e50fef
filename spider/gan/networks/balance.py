"""Whether the two players are of like size: a generator cannot learn from a discriminator far above or below it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from torch import nn

from spider.gan.networks.config import NetworkChoice

if TYPE_CHECKING:
    from spider.config.schema import Config

_TIMES = 10  # as many parameters, and more, are worth a word
_SIZE_KEYS = ("width", "channel_base", "ngf")  # the first that a network has says how large it is


class Sized(Protocol):
    """A player: its network, and what of it trains by name."""

    @property
    def name(self) -> str:
        """generator or discriminator."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    @property
    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Its parameters that train, and those of what joins it."""


def remarks_on_sizes(players: Iterable[Sized], given: Mapping[str, Collection[str]], config: Config) -> list[str]:
    """A line if one player has learnt more than ten times as many parameters as the other, with the keys that say so.

    Parameters count that train, and those of frozen layers that were learnt before. Pretrained networks that a player
    looks through, and frozen random ones, do not. None for two networks of one kind and one width: they are as their
    authors proportioned them.

    Args:
        players: both.
        given: names of parameters that were learnt before, by player.
    """
    choices: dict[str, NetworkChoice] = {"generator": config.generator, "discriminator": config.discriminator}
    g_choice, d_choice = choices.values()
    if (g_choice.kind, getattr(g_choice, "width", None)) == (d_choice.kind, getattr(d_choice, "width", 0)):
        return []
    sizes = {
        player.name: (_learnt(player, given[player.name]), f"{player.name}.{_size_key(choices[player.name])}")
        for player in players
    }
    small, large = sorted(sizes, key=lambda role: sizes[role][0])
    (few, small_key), (many, large_key) = sizes[small], sizes[large]
    if many <= _TIMES * few:
        return []
    times = f"{many / max(few, 1):,.0f} times as many learnt parameters"
    stem = ", its frozen stem included" if g_choice.grows else ""
    sums = {role: f"{size[0]:,}{stem if role == 'generator' else ''}" for role, size in sizes.items()}
    return [
        f"the {large} has {times} ({sums[large]}) as the {small} ({sums[small]}): compare {large_key} and {small_key}"
    ]


def _learnt(player: Sized, given: Collection[str]) -> int:
    trainable = {id(parameter) for _, parameter in player.trainable}
    named = player.module.named_parameters()
    return sum(each.numel() for name, each in named if id(each) in trainable or name in given)


def _size_key(choice: NetworkChoice) -> str:
    if choice.grows:  # its stem is as it is
        return choice.smaller_by()[0]
    return next((key for key in _SIZE_KEYS if key in type(choice).model_fields), "kind")
