"""The generators of StyleGAN-XL that the public code was recorded with: tests/golden/stylegan_xl_*.npz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spider.gan.networks.stylegan3 import Stylegan3Generator
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig
from spider.gan.networks.stylegan_xl_names import generator_names
from spider.gan.outputs import Condition, ConditionShape
from tests.vectors import recorded, weights_of

CLASSES = 4
XL: dict[str, Any] = {
    "channel_base": 256, "channel_max": 16, "w_dim": 12, "layers": 7, "margin": 4,
    "class_dim": 20, "w_avg_of": "class", "magnitude_half_life_kimg": None,
}  # fmt: skip
RECORDED: dict[str, dict[str, Any]] = {
    "stylegan_xl_t_class4": XL,
    "stylegan_xl_r": {**XL, "layers": 6, "equivariance": "rotation"},
    "stylegan_xl_grown": {**XL, "sides": (16, 32), "head_layers": (4,), "stem": "frozen_but_input"},
}


def load(generator: Stylegan3Generator, weights: Mapping[str, Tensor]) -> Stylegan3Generator:
    """The recorded tables have a row more than there are classes."""
    synthesis, classes = generator.synthesis, generator.w_avg.shape[0]
    name_of = generator_names(weights, [len(synthesis.layers), *map(len, synthesis.heads)])
    tensors = {name_of(name): each for name, each in weights.items() if name_of(name) is not None}
    table = tensors.pop("mapping.class_vectors.weight")
    if generator.mapping.class_vectors is not None:
        tensors["mapping.class_vectors.weight"] = table[:classes]
    generator.load_state_dict(tensors)
    return generator


def recorded_generator(
    name: str, settings: Mapping[str, Any] | None = None
) -> tuple[Stylegan3Generator, dict[str, Tensor], Condition]:
    """A generator with its recorded weights, everything that was recorded, and the classes of its images.

    Args:
        settings: others than the recorded ones.
    """
    vectors = recorded(name)
    side = vectors["img"].shape[-1]
    told = ConditionShape(classes=CLASSES if "label" in vectors else 0)
    config = Stylegan3GeneratorConfig(**(settings or RECORDED[name]))
    generator = Stylegan3Generator(config, vectors["z"].shape[1:], (3, side, side), told)
    return load(generator, weights_of(vectors)), vectors, Condition(vectors.get("label"))
