"""From settings to the weights that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spider.errors import SpiderError, SpiderUsageError
from spider.gan.class_file import CLASSIFIER
from spider.gan.init.config import GROUPS, InitChoice, RandomInitConfig, RunInitConfig, WeightsInitConfig

Weights = Mapping[str, Mapping[str, Tensor]]


def read_weights(config: InitChoice, tensors_of: Callable[[str], Weights]) -> Weights:
    """Tensors by network and name.

    Args:
        tensors_of: reads the checkpoint that RUN, RUN@best or RUN@KIMG names.

    Raises:
        SpiderUsageError: a network that the settings name is not among them.
        SpiderError, ClusterError: the file or the checkpoint cannot be read, or holds a value that is not finite.
    """
    match config:
        case RandomInitConfig():
            return {}
        case RunInitConfig():
            found = tensors_of(config.run)
        case WeightsInitConfig():
            found = _read_file(config)
        case _:
            found = config.read()
    weights = {GROUPS[player]: found[GROUPS[player]] for player in config.players if GROUPS[player] in found}
    for player in config.players:
        if GROUPS[player] not in weights:
            raise SpiderUsageError(f"init.players names {player}, and no {GROUPS[player]} is given")
    for group, tensors in weights.items():
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise SpiderError(f"init: {group}.{name} is not finite")
    return weights


def _read_file(config: WeightsInitConfig) -> Weights:
    try:
        tensors = load_file(config.file)
    except (SafetensorError, OSError) as error:
        raise SpiderError(f"init.file: {config.file}: no safetensors file: {' '.join(str(error).split())}") from None
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        if group in GROUPS.values():
            parts.setdefault(group, {})[rest] = tensor
    others = tensors.keys() - {f"{group}.{rest}" for group, names in parts.items() for rest in names}
    if not others or (parts and others <= {*CLASSIFIER}):
        return parts
    if parts:
        raise SpiderError(
            f"init.file: {config.file}: some names begin with a network's ({', '.join(parts)}), others do not"
        )
    if len({GROUPS[player].removesuffix("_ema") for player in config.players}) > 1:
        raise SpiderUsageError(
            f"init.players={list(config.players)}: {config.file} holds one network; name several in one file by "
            f"{', '.join(f'{group}.NAME' for group in GROUPS.values())}"
        )
    return {GROUPS[player]: tensors for player in config.players}
