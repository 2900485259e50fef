"""From the names of weights in the public implementations of BigGAN to ours.

They are those of facebookresearch/ic_gan, BigGAN_PyTorch/BigGAN.py, and of ajbrock/BigGAN-PyTorch. Shapes and values
are the same, but for u, which is a row [1, out] there. They store no v: a round of the power iteration makes one of u
(`SpectralNetwork.stepped`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_LAST = {"gain": "weight", "stored_mean": "running_mean", "stored_var": "running_var", "u0": "u"}
_ATTENTION = {"theta": "query", "phi": "key", "g": "value", "o": "out"}
_TOLD = {
    "shared": "told.embedding",
    "shared_feat": "told.instance",
    "embed": "told.embedding",
    "linear_feat": "told.instance",
}
_GENERATOR = {**_TOLD, "linear": "start", "output_layer.0": "norm", "output_layer.2": "to_image"}
_DISCRIMINATOR = {**_TOLD, "linear": "last"}
_LAYERS = {"conv1": "convs.0", "conv2": "convs.1", "conv_sc": "direct"}
_NORM = {"gain": ".scale", "bias": ".shift", "": ".norm"}
_BLOCK = re.compile(r"blocks\.(\d+)\.([01])\.(.+)")
_BN = re.compile(r"bn([12])\.?(.*)")


def generator_name(name: str, sides: Sequence[int]) -> str | None:
    """Our name of a weight or buffer of a generator; None of what is not stored here.

    Args:
        sides: in px, of what each block gives.

    Raises:
        KeyError: the generator has no such weight.
    """
    return _name(name, _GENERATOR, [f"{side}" for side in sides])


def discriminator_name(name: str, blocks: int) -> str | None:
    """The same of a discriminator of so many blocks."""
    return _name(name, _DISCRIMINATOR, [f"{number}" for number in range(blocks)])


def _name(name: str, outer: dict[str, str], keys: Sequence[str]) -> str | None:
    stem, _, last = name.rpartition(".")
    if last in ("sv0", "gamma"):  # the singular value, which is computed; the strength of attention
        return None if last == "sv0" else f"attention.{keys[int(name.split('.')[1])]}.strength"
    last = _LAST.get(last, last)
    found = _BLOCK.fullmatch(stem)
    if found is None:
        return f"{outer[stem]}.{last}"
    key, layer = keys[int(found[1])], found[3]
    if found[2] == "1":
        return f"attention.{key}.{_ATTENTION[layer]}.{last}"
    if norm := _BN.fullmatch(layer):
        return f"blocks.{key}.norms.{int(norm[1]) - 1}{_NORM[norm[2]]}.{last}"
    return f"blocks.{key}.{_LAYERS[layer]}.{last}"
