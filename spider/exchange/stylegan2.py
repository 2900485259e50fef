"""StyleGAN2's networks in a pickle of the public code -> our settings and weights.

Read are the networks of NVlabs/stylegan2-ada-pytorch (training/networks.py) and of NVlabs/stylegan3
(training/networks_stylegan2.py), which have the same classes, weights and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cluster.world import World
from spider.errors import SpiderError
from spider.exchange.persistent import PickledModule
from spider.exchange.translation import (
    CONV,
    FC,
    MAPPING,
    Imported,
    Parts,
    channels_and_mapping,
    image_shape,
    made,
    require_known,
    same,
    tensors,
    whole,
)  # fmt: skip
from spider.gan.networks.stylegan2 import Stylegan2Discriminator, Stylegan2Generator
from spider.gan.networks.stylegan2_names import discriminator_name, generator_name
from spider.gan.networks.stylegan_config import Stylegan2DiscriminatorConfig, Stylegan2GeneratorConfig
from spider.gan.outputs import ConditionShape

_PARTS: Parts = {
    "Generator": {"mapping": "MappingNetwork", "synthesis": "SynthesisNetwork"},
    **MAPPING,
    "SynthesisNetwork": {r"b\d+": "SynthesisBlock"},
    "SynthesisBlock": {r"conv\d": "SynthesisLayer", "torgb": "ToRGBLayer", "skip": CONV},
    "SynthesisLayer": {"affine": FC},
    "ToRGBLayer": {"affine": FC},
    "Discriminator": {"mapping": "MappingNetwork", "b4": "DiscriminatorEpilogue", r"b\d+": "DiscriminatorBlock"},
    "DiscriminatorBlock": {"fromrgb": CONV, r"conv\d": CONV, "skip": CONV},
    "DiscriminatorEpilogue": {"fromrgb": CONV, "mbstd": "MinibatchStdLayer", "conv": CONV, "fc": FC, "out": FC},
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "Generator": ("mapping", "synthesis"),
    "Discriminator": ("b4",),
    "DiscriminatorEpilogue": ("conv",),
}
_CONSTANTS = {"resample_filter": np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64}


def import_generator(network: PickledModule, max_bytes: int) -> Imported:
    """The generator, with constant noise: the maps of noise that the public code keeps with it, and generates with.

    Args:
        max_bytes: of all its tensors.

    Raises:
        SpiderError: it is not StyleGAN2's, or has what this one cannot be told.
    """
    require_known(network, "Generator", _PARTS, _REQUIRED)
    synthesis, mapping = network.children["synthesis"], network.children["mapping"]
    layers = [module for module in synthesis.modules() if module.class_name in ("SynthesisLayer", "ToRGBLayer")]
    noisy = same((layer for layer in layers if layer.class_name == "SynthesisLayer"), "use_noise", bool)
    config: dict[str, Any] = {
        **channels_and_mapping(network, network.kwargs.get("synthesis_kwargs"), mapping),
        "architecture": same(synthesis.children.values(), "architecture", str),
        "conv_clamp": same(layers, "conv_clamp", (int, float), none=True),
        "w_dim": whole(network, "w_dim"),
        "w_avg_beta": same([mapping], "w_avg_beta", (int, float)),
        "noise": "const" if noisy else "none",
    }
    z_dim, classes, shape = whole(network, "z_dim"), whole(network, "c_dim"), image_shape(network)
    settings = made(network, lambda: Stylegan2GeneratorConfig(**config))
    here = made(network, lambda: Stylegan2Generator(settings, (z_dim,), shape, ConditionShape(classes)))
    weights = tensors(network, generator_name, here, _CONSTANTS, max_bytes)
    return Imported(settings.model_dump(mode="json"), shape, classes, z_dim, weights)


def import_discriminator(network: PickledModule, max_bytes: int) -> Imported:
    """The discriminator. Arguments and errors as above."""
    require_known(network, "Discriminator", _PARTS, _REQUIRED)
    end, mapping = network.children["b4"], network.children.get("mapping")
    blocks = [child for name, child in network.children.items() if name not in ("b4", "mapping")]
    clamped = [child for block in blocks for name, child in block.children.items() if name != "skip"]
    std = end.children.get("mbstd")
    if std is not None and std.attributes.get("group_size", 0) is None:
        raise SpiderError(
            f"{std.path}: group_size is None, the whole batch of a GPU as one group, which has no equal here: a "
            "discriminator's groups are of the batch of all"
        )
    config: dict[str, Any] = {
        **channels_and_mapping(network, None, mapping),
        "architecture": same([*blocks, end], "architecture", str),
        "conv_clamp": same([*clamped, end.children["conv"]], "conv_clamp", (int, float), none=True),
        "mbstd_group": None if std is None else whole(std, "group_size"),
        **({} if std is None else {"mbstd_features": whole(std, "num_channels")}),
    }
    classes, shape = whole(network, "c_dim"), image_shape(network)
    settings = made(network, lambda: Stylegan2DiscriminatorConfig(**config))
    here = made(
        network,
        lambda: Stylegan2Discriminator(settings, shape, ConditionShape(classes), World.single(torch.device("cpu"))),
    )
    weights = tensors(network, discriminator_name, here, _CONSTANTS, max_bytes)
    return Imported(settings.model_dump(mode="json"), shape, classes, 0, weights)
