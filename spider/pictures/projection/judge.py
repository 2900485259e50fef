"""How far images are from a given one.

distance   a perceptual distance, see `spider.backbones.perceptual`. Images of more than 256 px come to 256 px before,
           by the mean over areas, as in the projector of StyleGAN2-ADA
L2         the mean of squared differences over channels and pixels, values being -1 to 1: 0 to 4
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from spider.backbones.perceptual import PerceptualDistance

COMPARED_PX = 256  # the largest side under which images are compared


def maps_of(images: Tensor, by: PerceptualDistance) -> list[Tensor]:
    """What `by` compares of images [N, C, H, W]."""
    if max(images.shape[2:]) > COMPARED_PX:
        images = interpolate(images, size=(COMPARED_PX, COMPARED_PX), mode="area")
    return by.maps(images)


@dataclass(frozen=True)
class Closeness:
    """How far one image is from the given one; by both measures, each 0 for equal images."""

    distance: float
    l2: float

    @property
    def loss(self) -> float:
        """What a search makes small."""
        return self.distance + self.l2

    @classmethod
    def of(cls, distance: Tensor, l2: Tensor) -> Closeness:
        """From what a `Judge` says of one image."""
        return cls(float(distance.detach()), float(l2.detach()))


class Judge:
    """Compares images with one that is given, float [1, C, H, W], -1 to 1."""

    def __init__(self, target: Tensor, by: PerceptualDistance) -> None:
        self.target = target
        self.by = by
        with torch.no_grad():
            self.maps = maps_of(target, by)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and L2 of float [N, C, H, W]: [N] each."""
        distance = self.by.between(maps_of(images, self.by), self.maps)
        return distance, (images - self.target).square().mean((1, 2, 3))
