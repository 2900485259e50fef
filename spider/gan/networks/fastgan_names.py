"""From the names of weights in the public implementations of FastGAN to ours.

They are those of projected_gan (pg_modules/networks_fastgan.py, without `synthesis.`) and of the original (models.py).
Shapes and values are the same. Parts that an image of a smaller side does not pass are stored there, and not here.
"""

from __future__ import annotations

import re

from spider.gan.networks.spectral import TORCH_NAMES

_STATISTICS = {"stored_mean": "running_mean", "stored_var": "running_var"}
_GATE_LAYERS = {"1": "enter", "3": "leave"}
_BLOCK = re.compile(r"feat_(\d+)\.(\d)\.(.+)")  # by position: one layer without noise, or two with it
_TOLD = re.compile(r"feat_(\d+)\.(conv|bn)\.(.+)")
_GATE = re.compile(r"se_(\d+)\.main\.(\d)\.(.+)")
# Positions of convolution, noise and batch norm
_ONE = {"1": "layers.0.conv.", "2": "layers.0.norm."}
_TWO = {
    "1": "layers.0.conv.",
    "2": "layers.0.noise_",
    "3": "layers.0.norm.",
    "5": "layers.1.conv.",
    "6": "layers.1.noise_",
    "7": "layers.1.norm.",
}


def generator_name(name: str, layers: dict[int, int]) -> str | None:
    """Our name of a weight or buffer of a generator; None of what is not stored here.

    Args:
        layers: of each side in px, `FastganGeneratorConfig.layers`.

    Raises:
        KeyError: the generator has no such weight.
    """
    name = name.removeprefix("synthesis.")
    stem, _, last = name.rpartition(".")
    if last == "num_batches_tracked":
        return None
    last = TORCH_NAMES.get(last, _STATISTICS.get(last, last))
    name = f"{stem}.{last}"
    if found := re.fullmatch(r"init\.init\.([01])\.(.+)", name):
        return f"{('start', 'start_norm')[int(found[1])]}.{found[2]}"
    if name == "embed.weight":
        return "embedding.weight"
    if found := re.fullmatch(r"to_(big|128)\.(.+)", name):
        return f"{'to_image' if found[1] == 'big' else 'to_small'}.{found[2]}"
    if found := _GATE.fullmatch(name):
        return f"gates.{found[1]}.{_GATE_LAYERS[found[2]]}.{found[3]}" if int(found[1]) in layers else None
    if found := _TOLD.fullmatch(name):
        return _told(int(found[1]), found[2], found[3], layers)
    found = _BLOCK.fullmatch(name)
    if found is None:
        raise KeyError(name)
    side = int(found[1])
    if side not in layers:
        return None
    place = (_ONE if layers[side] == 1 else _TWO)[found[2]]
    return f"blocks.{side}.{place}{'strength' if place.endswith('noise_') else found[3]}"


def _told(side: int, layer: str, weight: str, layers: dict[int, int]) -> str | None:
    """Of a block that is told a class."""
    if side not in layers:
        return None
    if layer == "conv":
        return f"blocks.{side}.layers.0.conv.{weight}"
    part, _, inner = weight.rpartition(".")
    part = {"gain": "scale", "bias": "shift", "": "norm"}[part]
    return f"blocks.{side}.layers.0.norm.{part}.{inner}"
