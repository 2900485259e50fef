"""StyleGAN-XL's generator in a pickle of the public code (autonomousvision/stylegan-xl) -> ours; also StyleSAN-XL's.

It is StyleGAN3's with a table of classes. In one that grew, a stage begins with a layer that changes no band, and the
sides of the stages before the last one follow from the cutoffs of their layers. Its discriminator holds backbones of
other libraries, and is not read.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from spider.errors import SpiderError
from spider.exchange.persistent import PickledModule, number_in
from spider.exchange.stylegan3 import require_same_filters
from spider.exchange.translation import (
    FC,
    Imported,
    Parts,
    image_shape,
    made,
    require,
    require_known,
    same,
    tensors,
    whole,
)
from spider.gan.networks.bands import plan
from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_xl_names import generator_names
from spider.gan.outputs import ConditionShape

_EMBEDDING = "torch.nn.modules.sparse.Embedding"
CLASSES = frozenset({_EMBEDDING})  # that are pickled by their names alone

_GROWN = "SuperresGenerator"
_INSIDE = {"mapping": "MappingNetwork", "synthesis": "SynthesisNetwork"}
_PARTS: Parts = {
    "Generator": _INSIDE,
    _GROWN: _INSIDE,
    "MappingNetwork": {"embed": _EMBEDDING, "embed_proj": FC, r"fc\d+": FC},
    "SynthesisNetwork": {"input": "SynthesisInput", r"L\d+_\d+_\d+": "SynthesisLayer"},
    "SynthesisInput": {"affine": FC},
    "SynthesisLayer": {"affine": FC},
}
_CONSTANTS = {"input.transform": np.eye(3)}
_OUTPUT_SCALE = 0.25
_LAYER = re.compile(r"L(\d+)_\d+_\d+")


def is_stylegan_xl(network: PickledModule) -> bool:
    """Whether a generator has StyleGAN-XL's table of classes, which it has without classes as well."""
    embedding = network.children.get("mapping", network).children.get("embed")
    return embedding is not None and embedding.class_name == _EMBEDDING


def import_generator(network: PickledModule, max_bytes: int) -> Imported:
    """The generator. Arguments and errors as of `stylegan3.import_generator`."""
    name = network.class_name if network.class_name == _GROWN else "Generator"
    require_known(network, name, _PARTS, {name: ("mapping", "synthesis"), "SynthesisNetwork": ("input",)})
    synthesis, mapping = network.children["synthesis"], network.children["mapping"]
    require(synthesis, "output_scale", _OUTPUT_SCALE)
    numbered = {
        int(found[1]): synthesis.children[found[0]] for found in map(_LAYER.fullmatch, synthesis.children) if found
    }
    layers = [numbered[number] for number in sorted(numbered)]
    shape, critical = image_shape(network), whole(synthesis, "num_critical")
    z_dim, classes = whole(network, "z_dim"), whole(network, "c_dim")
    embedding = mapping.children["embed"]
    config: dict[str, Any] = {
        **_growth(synthesis, layers, critical, shape[1]),
        "channel_base": whole(synthesis, "channel_base"),
        "channel_max": whole(synthesis, "channel_max"),
        "critical_layers": critical,
        "margin": whole(synthesis, "margin_size"),
        "conv_clamp": same(layers, "conv_clamp", (int, float), none=True),
        "mapping_layers": whole(mapping, "num_layers"),
        "w_dim": whole(network, "w_dim"),
        "w_avg_beta": same([mapping], "w_avg_beta", (int, float)),
        "w_avg_of": "class",
        "class_dim": whole(embedding, "embedding_dim"),
        "magnitude_half_life_kimg": None,
        "stem": "trains",
    }
    settings = made(network, lambda: Stylegan3GeneratorConfig(**config))
    bands = made(network, lambda: plan(settings, shape))
    require_same_filters(synthesis, layers, settings, bands)
    here = made(network, lambda: Stylegan3Generator(settings, (z_dim,), shape, ConditionShape(classes)))
    ours = generator_names(network.all_tensors(), [len(here.synthesis.layers), *map(len, here.synthesis.heads)])
    weights = tensors(
        network,
        lambda name: None if name == "mapping.embed.weight" and not classes else ours(name),
        here,
        _CONSTANTS,
        max_bytes,
        {"mapping.class_vectors.weight": lambda table: np.atleast_1d(table)[:classes]},
    )
    return Imported(settings.model_dump(mode="json"), shape, classes, z_dim, weights)


def _growth(synthesis: PickledModule, layers: list[PickledModule], critical: int, side: int) -> dict[str, Any]:
    """Layers and equivariance of the stem and of the heads, and sides of all stages."""
    stages: list[list[PickledModule]] = []
    for layer in layers:
        if _begins_stage(layer):
            stages.append([])
        elif not stages:
            raise SpiderError(f"{layer.path}: comes first, and does not give the band that it is given")
        stages[-1].append(layer)
    if not stages:
        raise SpiderError(f"{synthesis.path}: has no layers")
    counts: list[int] = []
    sides: list[int] = []
    for stage in stages[:-1]:
        counts.append(len(stage) + critical)
        first, last, steps = _cutoff(stage[0]), _cutoff(stage[-1]), len(stage) - 1
        if not last > first > 0 or not steps:
            raise SpiderError(f"{stage[-1].path}: out_cutoff={last:g} does not tell the side of its stage")
        sides.append(round(2 * first * (last / first) ** ((counts[-1] - critical) / steps)))
    counts.append(len(stages[-1]) - 1)
    kernels = [same(each, "conv_kernel", int) for each in (*stages[:-1], stages[-1][:-1])]
    equivariance, *heads = ["rotation" if kernel == 1 else "translation" for kernel in kernels]
    return {
        "layers": counts[0],
        "head_layers": counts[1:] or [7],
        "sides": [*sides, side] if sides else [],
        "equivariance": equivariance,
        "head_equivariance": heads if {*heads} - {equivariance} else [],
    }


def _begins_stage(layer: PickledModule) -> bool:
    """Whether it gives the band that it is given, as the first layer of a stage does, and the last ones of all."""
    given = number_in(layer.attributes.get("in_cutoff"))
    return given == _cutoff(layer) and layer.attributes.get("is_critically_sampled") is False


def _cutoff(layer: PickledModule) -> float:
    found = number_in(layer.attributes.get("out_cutoff"))
    if found is None:
        raise SpiderError(f"{layer.path}: out_cutoff is no number")
    return found
