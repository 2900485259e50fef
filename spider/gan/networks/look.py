"""A pretrained network that a projected discriminator looks through, between the images that it is shown and the heads.

    images --scale, size--> backbone, frozen --> 4 maps --mixing, frozen--> 4 maps --heads, trained--> logits

Images come to a network scaled as it was trained, or from -1 to 1. Those of less than 224 px are enlarged by their
shorter side, and a transformer is shown all in its own size, squares; bilinearly, as in autonomousvision/stylegan-xl,
pg_modules/discriminator.py. Grey images are shown as RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn
from torch.nn.functional import interpolate

from cluster.world import World
from spider.backbones.deit import read_deit
from spider.backbones.efficientnet_lite0 import read_efficientnet_lite0
from spider.backbones.normalisation import IMAGENET, Normalisation
from spider.backbones.timm_stages import read_timm
from spider.backbones.torchvision_stages import read_torchvision
from spider.errors import SpiderUsageError
from spider.gan.networks.backbone_config import (
    BackboneChoice,
    DeitConfig,
    EfficientnetLite0Config,
    NormalisedConfig,
    TimmConfig,
    TorchvisionConfig,
)
from spider.gan.networks.projected_config import SCALES, ProjectedDiscriminatorConfig
from spider.gan.networks.projected_heads import Heads
from spider.gan.networks.projected_mixing import Mixing
from spider.gan.networks.reassembly import Reassembled
from spider.gan.outputs import ConditionShape


class Backbone(Protocol):
    """What every pretrained network is that a discriminator looks through: an nn.Module, frozen.

    One that is shown images in a size of its own, squares, has an attribute `side`, in pixels. One that was trained on
    images less another mean than ImageNet's has an attribute `normalisation`.

    Attributes:
        channels: of the four maps.
    """

    @property
    def channels(self) -> Sequence[int]:
        """See the class."""

    def stages(self, images: Tensor) -> Sequence[Tensor]:
        """float [N, 3, H, W] -> maps [N, channels, ...] of 1/4, 1/8, 1/16 and 1/32 of the side, differentiable."""


@dataclass(frozen=True)
class Shown:
    """How images [N, C, H, W], C 1 or 3, -1 to 1, come to a network, [N, 3, h, w].

    Attributes:
        normalisation: less which mean, over which standard deviation; None: from -1 to 1.
        size: h and w; None: those of the images.
    """

    normalisation: Normalisation | None
    size: tuple[int, int] | None

    def __call__(self, images: Tensor) -> Tensor:
        """See the class."""
        x = images.expand(-1, 3, -1, -1)
        if self.normalisation is not None:
            x = self.normalisation.of_signed(x)
        return x if self.size is None else interpolate(x, self.size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Look:
    """One pretrained network with what stands before and after it. The discriminator registers the modules."""

    shown: Shown
    backbone: Backbone
    mixing: Mixing
    heads: Heads

    def modules(self) -> dict[str, nn.Module]:
        """By the names of the attributes."""
        assert isinstance(self.backbone, nn.Module)
        return {"backbone": self.backbone, "mixing": self.mixing, "heads": self.heads}


def build_look(
    choice: BackboneChoice,
    config: ProjectedDiscriminatorConfig,
    image_shape: tuple[int, int, int],
    told: ConditionShape,
    world: World,
) -> Look:
    """One of `config.looks`, for images [C, H, W].

    Raises:
        SpiderUsageError: it cannot look at images of this shape.
        SpiderError: no weights, or not this network's.
    """
    backbone = _backbone(choice)
    side: int | None = getattr(backbone, "side", None)
    size = config.seen_size(image_shape) if side is None else _own_size(choice, side, image_shape)
    normalises = isinstance(choice, NormalisedConfig) and choice.normalise
    shown = Shown(getattr(backbone, "normalisation", IMAGENET) if normalises else None, size)
    mixing = Mixing(backbone.channels, config.mixed_channels)
    return Look(shown, backbone, mixing, Heads(config, mixing.channels, told, world))


def _backbone(choice: BackboneChoice) -> Backbone:
    match choice:
        case EfficientnetLite0Config():
            return read_efficientnet_lite0(_path(choice.weights))[0]
        case DeitConfig():
            return Reassembled(read_deit(_path(choice.weights))[0])
        case TorchvisionConfig():
            return read_torchvision(choice.network, Path(choice.weights))
        case TimmConfig():
            return read_timm(choice.network, Path(choice.weights))
    made = choice.build()
    if not isinstance(made, nn.Module) or len(getattr(made, "channels", ())) != SCALES:
        raise SpiderUsageError(
            f"discriminator.backbones: kind={choice.kind}: build returned {type(made).__name__}, and not a "
            f"torch.nn.Module with {SCALES} maps"
        )
    return made


def _path(place: str | None) -> Path | None:
    return None if place is None else Path(place)


def _own_size(choice: BackboneChoice, side: int, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Of a network that is shown images in a size of its own."""
    if image_shape[0] not in (1, 3):
        raise SpiderUsageError(f"discriminator.kind=projected sees grey or RGB images, found {image_shape[0]} channels")
    if side < 128 or side % 32:
        raise SpiderUsageError(
            f"discriminator.backbones: kind={choice.kind}: its images have {side} px, and heads judge those of a "
            "multiple of 32 px, from 128 px on"
        )
    return side, side
