"""From the names of weights in the public implementation of FastGAN's discriminator (models.py) to ours.

Shapes and values are the same. Its decoders, which are stored there, are an auxiliary here (`decoder_name`).
"""

from __future__ import annotations

import re

from spider.gan.networks.spectral import TORCH_NAMES

_GATES = {"se_2_16": 32, "se_4_32": 16, "se_8_64": 8}
_GATE_LAYERS = {"1": "enter", "3": "leave"}
_STEM = {"0": "0.conv", "2": "1.conv", "3": "1.norm"}
_JUDGE = {"0": "mix.conv", "1": "mix.norm", "3": "judge"}
_MAIN = {"0": "main.0.conv", "1": "main.0.norm", "3": "main.1.conv", "4": "main.1.norm"}
_DIRECT = {"1": "direct.conv", "2": "direct.norm"}
_BLOCK = re.compile(r"down_(\d+)\.(main|direct)\.(\d)\.(.+)")
_SMALL = re.compile(r"down_from_small\.(\d)\.(?:main\.(\d)\.)?(.+)")
_DECODER = re.compile(r"decoder_(big|part|small)\.main\.(\d)\.(?:(\d)\.)?(.+)")


def discriminator_name(name: str, side: int) -> str | None:
    """Our name of a weight or buffer; None of what is not stored here.

    Args:
        side: of the images, in px.

    Raises:
        KeyError: the discriminator has no such weight.
    """
    stem, _, last = name.rpartition(".")
    if last == "num_batches_tracked" or name.startswith("decoder_"):
        return None
    name = f"{stem}.{TORCH_NAMES.get(last, last)}"
    part, _, rest = name.partition(".")
    first, _, weight = rest.partition(".")
    if part == "down_from_big":
        return f"stem.{_STEM[first]}.{weight}"
    if part == "rf_big":
        return f"{_JUDGE[first]}.{weight}"
    if part == "rf_small":
        return f"judge_small.{rest}"
    if part in _GATES:
        layer, _, weight = weight.partition(".")
        return f"gates.{_GATES[part]}.{_GATE_LAYERS[layer]}.{weight}"
    if found := _BLOCK.fullmatch(name):
        layer = (_MAIN if found[2] == "main" else _DIRECT)[found[3]]
        return f"blocks.{512 // int(found[1])}.{layer}.{found[4]}"
    if found := _SMALL.fullmatch(name):
        layer = "conv" if found[2] in (None, "0") else "norm"
        return f"small.{max(0, int(found[1]) - 1)}.{layer}.{found[3]}"
    raise KeyError(name)


def decoder_name(name: str) -> str | None:
    """Our name of a weight or buffer of a decoder; None of what is not stored. Raises KeyError."""
    stem, _, last = name.rpartition(".")
    if last == "num_batches_tracked":
        return None
    found = _DECODER.fullmatch(f"{stem}.{TORCH_NAMES.get(last, last)}")
    if found is None:
        raise KeyError(name)
    which = {"big": "trunk", "part": "inner", "small": "small"}[found[1]]
    if found[3] is None:
        return f"each.{which}.to_image.{found[4]}"
    layer = "conv" if found[3] == "1" else "norm"
    return f"each.{which}.blocks.{int(found[2]) - 1}.{layer}.{found[4]}"
