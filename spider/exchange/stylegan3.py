"""StyleGAN3's generator in a pickle of the public code (NVlabs/stylegan3, training/networks_stylegan3.py) -> ours.

The filters follow from rates, cutoffs and widths, which every layer tells and which are compared with ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from spider.errors import SpiderError
from spider.exchange.persistent import PickledModule
from spider.exchange.translation import (
    FC,
    MAPPING,
    Imported,
    Parts,
    channels_and_mapping,
    image_shape,
    made,
    require,
    require_known,
    same,
    tensors,
    whole,
)  # fmt: skip
from spider.gan.networks.bands import Band, plan
from spider.gan.networks.filtered import TAPS
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan3_names import generator_name
from spider.gan.outputs import ConditionShape

_PARTS: Parts = {
    "Generator": {"mapping": "MappingNetwork", "synthesis": "SynthesisNetwork"},
    **MAPPING,
    "SynthesisNetwork": {"input": "SynthesisInput", r"L\d+_\d+_\d+": "SynthesisLayer"},
    "SynthesisInput": {"affine": FC},
    "SynthesisLayer": {"affine": FC},
}
_REQUIRED = {"Generator": ("mapping", "synthesis"), "SynthesisNetwork": ("input",)}
_CONSTANTS = {"input.transform": np.eye(3)}
_OUTPUT_SCALE = 0.25


def is_stylegan3(network: PickledModule) -> bool:
    """Whether a generator has StyleGAN3's input."""
    synthesis = network.children.get("synthesis")
    return synthesis is not None and "input" in synthesis.children


def import_generator(network: PickledModule, max_bytes: int) -> Imported:
    """The generator. The half-life of its magnitudes is one of training, and stays ours.

    Args:
        max_bytes: of all its tensors.

    Raises:
        SpiderError: it is not StyleGAN3's, or has what this one cannot be told.
    """
    require_known(network, "Generator", _PARTS, _REQUIRED)
    synthesis, mapping = network.children["synthesis"], network.children["mapping"]
    layers = [child for name, child in synthesis.children.items() if name != "input"]
    require(synthesis, "output_scale", _OUTPUT_SCALE)
    kernel = same(layers[:-1], "conv_kernel", int)
    config: dict[str, Any] = {
        **channels_and_mapping(network, network.kwargs.get("synthesis_kwargs"), mapping),
        "equivariance": "rotation" if kernel == 1 else "translation",
        "layers": whole(synthesis, "num_layers"),
        "critical_layers": whole(synthesis, "num_critical"),
        "margin": whole(synthesis, "margin_size"),
        "conv_clamp": same(layers, "conv_clamp", (int, float), none=True),
        "w_dim": whole(network, "w_dim"),
        "w_avg_beta": same([mapping], "w_avg_beta", (int, float)),
    }
    z_dim, classes, shape = whole(network, "z_dim"), whole(network, "c_dim"), image_shape(network)
    settings = made(network, lambda: Stylegan3GeneratorConfig(**config))
    bands = made(network, lambda: plan(settings, shape))
    require_same_filters(synthesis, layers, settings, bands)
    here = made(network, lambda: Stylegan3Generator(settings, (z_dim,), shape, ConditionShape(classes)))
    weights = tensors(network, generator_name, here, _CONSTANTS, max_bytes)
    return Imported(settings.model_dump(mode="json"), shape, classes, z_dim, weights)


def require_same_filters(
    synthesis: PickledModule, layers: list[PickledModule], settings: Stylegan3GeneratorConfig, bands: Sequence[Band]
) -> None:
    """Refuse layers that filter otherwise than ours.

    Args:
        layers: of the pickle, from the input to the image.
        bands: of ours, see `plan`.
    """
    if len(layers) != len(bands):
        raise SpiderError(f"{synthesis.path}: has {len(layers)} layers, and tells of {len(bands)}")
    first = bands[0]
    require(synthesis.children["input"], "bandwidth", first.cutoff)
    require(synthesis.children["input"], "sampling_rate", float(first.rate))
    for layer, (before, after) in zip(layers, pairwise([first, *bands]), strict=True):
        last = after.shown
        require(layer, "is_torgb", last)
        require(layer, "is_critically_sampled", after.critical)
        require(layer, "conv_kernel", 1.0 if last or after.rotation else 3.0)
        for side, band in (("in", before), ("out", after)):
            require(layer, f"{side}_sampling_rate", float(band.rate))
            require(layer, f"{side}_cutoff", band.cutoff)
            require(layer, f"{side}_half_width", band.half_width)
        if not last:
            fine = 2 * max(before.rate, after.rate)
            require(layer, "tmp_sampling_rate", float(fine))
            require(layer, "down_radial", after.rotation and not after.critical)
            for way, band in (("up", before), ("down", after)):
                factor = fine // band.rate
                require(layer, f"{way}_taps", float(TAPS * factor if factor > 1 else 1))
