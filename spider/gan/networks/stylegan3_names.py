"""From the names of weights in the public implementation of StyleGAN3 (NVlabs/stylegan3) to ours.

Shapes and values are the same. Filters, which are stored there, are not weights here. The discriminator is StyleGAN2's.
"""

from __future__ import annotations

import re

from spider.gan.networks.stylegan2_names import mapping_name

_INPUT = {"freqs": "frequencies", "phases": "phases", "weight": "weight"}  # beside the affine layer
_LAYER = re.compile(r"synthesis\.L(\d+)_\d+_\d+\.(.+)")
_NOT_STORED = ("up_filter", "down_filter", "input.transform")


def generator_name(name: str) -> str | None:
    """Our name of a weight or buffer of the generator; None of what is not stored here.

    Raises:
        KeyError: the generator has no such weight.
    """
    if name.endswith(_NOT_STORED):
        return None
    found = mapping_name(name)
    if found is not None:
        return found
    if name.startswith("synthesis.input."):
        weight = name.removeprefix("synthesis.input.")
        return f"synthesis.input.{weight if weight.startswith('affine.') else _INPUT[weight]}"
    layer = _LAYER.fullmatch(name)
    if layer is None:
        raise KeyError(name)
    weight = layer[2]
    if weight.startswith("affine.") or weight == "weight":
        weight = f"conv.{weight}"
    weight = "magnitude" if weight == "magnitude_ema" else weight
    return f"synthesis.layers.{layer[1]}.{weight}"
