"""From the names of weights in the public implementations of Projected GAN and StyleGAN-XL to ours.

Shapes and values are the same. The pretrained network, which is stored there, is not here. StyleGAN-XL's code puts
`discriminators.NAME.` before the names of the heads of each network; the names here are those within one network.
"""

from __future__ import annotations

import re

from spider.gan.networks.spectral import TORCH_NAMES

_MIXING = re.compile(r"(?:feature_network\.scratch\.|projector\.)?layer(\d)_(ccm|csm\.out_conv)\.(.+)")
_HEAD = re.compile(r"(?:discriminator\.|discriminators\.\w+\.)?mini_discs\.(\d)\.(.+)")
_BLOCK = re.compile(r"main\.(\d)\.main\.(\d)\.(.+)")


def discriminator_name(name: str, blocks: int) -> str | None:
    """Our name of a weight or buffer of the mixing and the heads; None of what is not stored here.

    Args:
        blocks: of the first head: 4, as the public code has it.

    Raises:
        KeyError: the discriminator has no such weight.
    """
    stem, _, last = name.rpartition(".")
    if last == "num_batches_tracked":
        return None
    name = f"{stem}.{TORCH_NAMES.get(last, last)}"
    if found := _MIXING.fullmatch(name):
        return f"mixing.{'of_channels' if found[2] == 'ccm' else 'of_scales'}.{found[1]}.{found[3]}"
    found = _HEAD.fullmatch(name)
    if found is None:
        raise KeyError(name)
    number, rest = int(found[1]), found[2]
    head = f"heads.each.{number}"
    if block := _BLOCK.fullmatch(rest):
        kind, _, weight = block[3].rpartition(".")
        layer = {"0": kind or "conv", "1": "norm"}[block[2]]
        return f"{head}.blocks.{block[1]}.{layer}.{weight}"
    for theirs, ours in (
        (f"main.{blocks - number}.", "last."),
        ("cls.", "last."),
        ("embed.", "embedding."),
        ("embed_proj.0.", "to_class."),  # Projected GAN's
        ("embed_proj.", "to_class."),  # StyleGAN-XL's
    ):
        if rest.startswith(theirs):
            return f"{head}.{ours}{rest.removeprefix(theirs)}"
    raise KeyError(name)
