"""The generators of StyleGAN2 that the public code was recorded with: tests/golden/stylegan2_g32*.npz."""

from __future__ import annotations

from typing import Any

from spider.gan.networks.stylegan2 import Stylegan2Generator
from spider.gan.networks.stylegan2_names import generator_name
from spider.gan.networks.stylegan_config import Stylegan2GeneratorConfig
from spider.gan.outputs import ConditionShape
from tests.vectors import recorded, weights_of

SMALL = {"channel_base": 512, "channel_max": 24}
CLASSES = {"": 0, "_class3": 3}


def recorded_generator(suffix: str, **settings: Any) -> Stylegan2Generator:
    """That of 32 px without classes, "", or with three, "_class3". It has no style mixing.

    Args:
        settings: others than the recorded ones, such as the kind of noise.
    """
    config = Stylegan2GeneratorConfig(
        **{
            **SMALL,
            "w_dim": 48,
            "mapping_layers": 2 if suffix else 8,
            "noise": "const",
            "conv_clamp": None,
            "style_mixing": 0,
            **settings,
        }
    )
    generator = Stylegan2Generator(config, (32,), (3, 32, 32), ConditionShape(CLASSES[suffix]))
    weights = weights_of(recorded(f"stylegan2_g32{suffix}"), generator_name)
    generator.load_state_dict({name: weights[name] for name in generator.state_dict()})
    return generator
