"""From the names of weights in the public implementation of StyleGAN2 (NVlabs/stylegan2-ada-pytorch) to ours.

Shapes and values are the same. Resampling filters, which are stored there, are not weights here.
"""

from __future__ import annotations

import re

_LAYER = {"fc": "dense", "fromrgb": "from_image"}  # of the discriminator, where they differ
_MAPPING = re.compile(r"mapping\.fc(\d+)\.(.+)")
_EMBEDDING = re.compile(r"mapping\.(embed|embed_feats)\.(.+)")
_TOLD = {"embed": "embedding", "embed_feats": "instance"}  # of an instance in facebookresearch/ic_gan alone
_BLOCK = re.compile(r"(?:synthesis\.)?b(\d+)\.(.+)")


def generator_name(name: str) -> str | None:
    """Our name of a weight or buffer of the generator; None of what is not stored here.

    Raises:
        KeyError: the generator has no such weight.
    """
    if name.endswith("resample_filter"):
        return None
    found = mapping_name(name)
    if found is not None:
        return found
    level, rest = _block(name)
    if rest == "const":
        return "synthesis.const"
    block, (layer, _, weight) = f"synthesis.blocks.{level}", rest.partition(".")
    if layer == "skip":
        return f"{block}.skip.{weight}"
    if weight.startswith("affine.") or weight == "weight":
        weight = f"conv.{weight}"
    if layer == "torgb":
        return f"{block}.to_image.{weight}"
    number = {"conv0": 0, "conv1": 1 if level else 0}[layer]  # at 4 px there is no conv0
    return f"{block}.layers.{number}.{weight}"


def discriminator_name(name: str) -> str | None:
    """Our name of a weight of the discriminator; None of what is not stored here. Raises KeyError as above."""
    if name.endswith("resample_filter"):
        return None
    found = mapping_name(name)
    if found is not None:
        return found
    level, rest = _block(name)
    layer, _, weight = rest.partition(".")
    layer = _LAYER.get(layer, layer)
    return f"blocks.{level - 1}.{layer}.{weight}" if level else f"{layer}.{weight}"


def mapping_name(name: str) -> str | None:
    """Our name of a weight or buffer of the mapping network, whose names StyleGAN3 shares; None of any other."""
    if name == "mapping.w_avg":
        return "w_avg"
    if found := _MAPPING.fullmatch(name):
        return f"mapping.layers.{found[1]}.{found[2]}"
    if found := _EMBEDDING.fullmatch(name):
        return f"mapping.{_TOLD[found[1]]}.{found[2]}"
    return None


def _block(name: str) -> tuple[int, str]:
    """The number of a resolution, 0 at 4 px, and the rest of the name."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        raise KeyError(name)
    return int(found[1]).bit_length() - 3, found[2]
