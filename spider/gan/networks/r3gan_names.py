"""From the names of weights in the public implementation of R3GAN (brownvc/R3GAN, R3GAN/Networks.py) to ours.

Shapes and values are the same, but for the vectors of classes, which are the columns of a matrix [dim, classes] there.
Resampling filters, which are stored there, are not weights here.
"""

from __future__ import annotations

import re

CLASS_VECTORS = "embedding.weight"  # our name of the weight that is turned

_LAYER = re.compile(r"MainLayers\.(\d+)\.Layers\.(\d+)\.(.+)")
_IN_STAGE = {
    "LinearLayer1.Layer.weight": "enter.weight",
    "LinearLayer2.Layer.weight": "mix.weight",
    "LinearLayer3.Layer.weight": "leave.weight",
    "NonLinearity1.Bias": "enter_bias",
    "NonLinearity2.Bias": "mix_bias",
    "LinearLayer.Layer.weight": "change.weight",
}
_AT_4_PX = {"Basis": "basis", "Basis.weight": "basis.weight", "LinearLayer.weight": "dense.weight"}
_ELSEWHERE = {
    "EmbeddingLayer.weight": CLASS_VECTORS,
    "ExtractionLayer.Layer.weight": "from_image.weight",
    "AggregationLayer.Layer.weight": "to_image.weight",
}


def generator_name(name: str) -> str | None:
    """Our name of a weight of the generator; None of what is not stored here.

    Raises:
        KeyError: the generator has no such weight.
    """
    return _name(name, 1)  # the basis there is a layer of the first stage


def discriminator_name(name: str) -> str | None:
    """The same of the discriminator."""
    return _name(name, 0)


def _name(name: str, before_blocks: int) -> str | None:
    """Args: before_blocks: layers of the first stage before its blocks, which no stage has here."""
    name = name.removeprefix("Model.")
    if name.endswith(".Resampler.Kernel"):
        return None
    found = _LAYER.fullmatch(name)
    if found is None:
        return _ELSEWHERE[name]
    stage, layer, rest = int(found[1]), int(found[2]), found[3]
    if rest in _AT_4_PX:
        return _AT_4_PX[rest]
    return f"stages.{stage}.{layer - before_blocks * (stage == 0)}.{_IN_STAGE[rest]}"
