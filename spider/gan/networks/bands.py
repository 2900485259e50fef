"""The bands of frequencies through which StyleGAN3's layers go, also of a generator that grew by stages.

Cutoffs and stops rise from layer to layer by equal factors, from those of the input to half of the image's side. A
further stage (StyleGAN-XL, Sauer et al. 2022) leaves out the layers of the stage before that keep its finest detail
and make its image, and goes on from the band of the last layer that is left.
Rates, sizes, widths and channels are those of the public implementations (NVlabs/stylegan3 and
autonomousvision/stylegan-xl).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from spider.errors import SpiderUsageError
from spider.gan.networks.stylegan3_config import Stylegan3GeneratorConfig

_FIRST_CUTOFF = 2.0
_FIRST_STOP = 2**2.1
_LAST_STOP = 2**0.3  # by the last cutoff


@dataclass(frozen=True)
class Band:
    """What a layer gives. Frequencies and rates are per side of the shown image."""

    rate: int  # pixels
    cutoff: float
    half_width: float  # from the cutoff to where it stops
    size: int  # pixels, with the margins
    channels: int
    bf16: bool  # whether the convolution that makes it computes in bfloat16
    critical: bool  # whether it keeps the finest detail of its stage, which the next stage leaves out
    shown: bool  # whether it is the image
    rotation: bool  # whether what gives it follows rotations of what that is given


def plan(config: Stylegan3GeneratorConfig, image_shape: tuple[int, int, int]) -> list[Band]:
    """Of the input and of every layer, the last of which gives the image. The first layer gives the first band again.

    Raises:
        SpiderUsageError: see `stages`.
    """
    return [band for stage in stages(config, image_shape) for band in stage]


def stages(config: Stylegan3GeneratorConfig, image_shape: tuple[int, int, int]) -> list[list[Band]]:
    """The bands of `plan`, by the stage whose layers they are of: the input's and the stem's, then those of each head.

    Raises:
        SpiderUsageError: images are no squares, their side is not 5 to 17 px times a power of 2, or not that of the
            last stage.
    """
    image_channels, height, side = image_shape
    grown = config.sides or (side,)
    if (height, side) != (grown[-1], grown[-1]) and config.sides:
        raise SpiderUsageError(
            f"generator.sides={list(grown)} ends with squares of {grown[-1]} px, and the images are {side}x{height}: "
            f"pack the data with --resolution {grown[-1]}, or let generator.sides end with {side}"
        )
    if height != side:
        raise _unfit(config, side, height)

    def of(stage: int, level: int, last: int, cutoff: float, stop: float) -> Band:
        """The band of a layer of a stage, `last` being the one that gives the image; from this cutoff and stop on."""
        stage_side = grown[stage]
        exponent = min(level / (last - config.critical_layers), 1)
        if stage_side < 5:
            raise _unfit(config, stage_side, stage_side)
        cutoff = cutoff * (stage_side / 2 / cutoff) ** exponent
        stop = stop * (stage_side / 2 * _LAST_STOP / stop) ** exponent
        # Half of the side, and so on, as long as it is enough; 256 px has a stop that is a power of 2 but for rounding
        halvings = math.floor(math.log2(stage_side / min(2 * stop, stage_side)) + 1e-6)
        if stage_side % (1 << halvings):
            raise _unfit(config, stage_side, stage_side)
        rate = stage_side >> halvings
        channels = round(min(config.channel_base / 2 / cutoff, config.channel_max))
        return Band(
            rate,
            cutoff,
            half_width=max(stop, rate / 2) - cutoff,
            size=stage_side if level >= last - 1 else rate + 2 * config.margin,
            channels=image_channels if level == last else max(1, channels),
            bf16=rate << config.bf16_resolutions > side,
            critical=level >= last - config.critical_layers,
            shown=level == last,
            rotation=config.rotations[stage],
        )

    layers = config.layers
    made = [[of(0, level, layers, _FIRST_CUTOFF, _FIRST_STOP) for level in range(layers + 1)]]
    for stage, layers in enumerate(config.layers_of_heads, 1):
        made[-1] = [band for band in made[-1] if not band.critical]
        before = made[-1][-1]
        stop = before.cutoff + before.half_width
        first = replace(before, rotation=config.rotations[stage])
        made.append([first, *(of(stage, level, layers, before.cutoff, stop) for level in range(1, layers + 1))])
    for before, after in pairwise(band for stage in made for band in stage):
        finer = max(before.rate, after.rate)
        if finer % before.rate or finer % after.rate:
            raise SpiderUsageError(
                f"generator.sides={[*grown]}: a layer would go from {before.rate} to {after.rate} px, of which neither "
                "is a multiple of the other: take sides that are 2, 4 or 8 times the one before"
            )
    return made


def _unfit(config: Stylegan3GeneratorConfig, width: int, height: int) -> SpiderUsageError:
    return SpiderUsageError(
        f"generator.kind={config.kind} makes squares of 5 to 17 px times a power of 2, found {width}x{height}: "
        f"pack the data at another --resolution{', and say so in generator.sides' if config.sides else ''}"
    )
