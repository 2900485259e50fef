"""From the names of weights in the public implementation of StyleGAN-XL (autonomousvision/stylegan-xl) to ours.

Shapes and values are the same, but for the table of classes, which has a row for each of ImageNet's 1,000 there. Layers
have numbers that rise from the input to the image, with one or none left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from spider.gan.networks import stylegan3_names

_LAYER = re.compile(r"synthesis\.(L(\d+)_\d+_\d+)\.(.+)")


def generator_names(names: Iterable[str], layers_of_stages: Sequence[int]) -> Callable[[str], str | None]:
    """What gives our name of a weight or buffer of a generator; None of what is not stored here.

    Args:
        names: all names of the generator there.
        layers_of_stages: how many layers it has of the stem, and of each further stage.

    Raises:
        KeyError: the generator has no such weight; at once if it has more or fewer layers.
    """
    places = [f"layers.{number}" for number in range(layers_of_stages[0])]
    for head, layers in enumerate(layers_of_stages[1:]):
        places += [f"heads.{head}.{number}" for number in range(layers)]
    found = {layer[1]: int(layer[2]) for layer in map(_LAYER.fullmatch, names) if layer is not None}
    if len(found) != len(places):
        raise KeyError(f"{len(found)} layers, and not {len(places)}")
    place_of = dict(zip(sorted(found, key=found.__getitem__), places, strict=True))

    def ours(name: str) -> str | None:
        if name == "mapping.embed.weight":
            return "mapping.class_vectors.weight"
        layer = _LAYER.fullmatch(name)
        plain = stylegan3_names.generator_name(name.replace("mapping.embed_proj.", "mapping.embed."))
        if layer is None or plain is None:
            return plain
        return f"synthesis.{place_of[layer[1]]}.{plain.split('.', 3)[3]}"

    return ours
