"""How different the images of one condition are that a generator makes: the mean perceptual distance between two.

IC-GAN (Casanova et al. 2021, Table 2) measures by LPIPS of AlexNet, of images with one instance and other noise, and
gives the standard deviation over pairs beside it. Of a generator that is told nothing it is the distance between any
two of its images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spider.backbones.perceptual import PerceptualDistance
from spider.gan.sources.frozen import FrozenGenerator
from spider.judge.metrics.spread import spread

if TYPE_CHECKING:
    from cluster.world import World

AT_ONCE = 32  # pairs


@torch.no_grad()
def diversity_of(
    generator: FrozenGenerator,
    distance: PerceptualDistance,
    seed: int,
    count: int,
    world: World,
    *,
    progress: bool = False,
) -> tuple[float, float]:
    """Mean and standard deviation over `count` pairs under an evaluation seed. All ranks; each gets both.

    The images of pair i have the condition of sample i, and the inputs and draws of samples 2 i and 2 i + 1.
    """

    def distances(block: int) -> tuple[Tensor]:
        pairs = range(block * AT_ONCE, (block + 1) * AT_ONCE)
        told = generator.told(seed, pairs)
        images = [generator.images(seed, [2 * pair + other for pair in pairs], told) for other in (0, 1)]
        return (distance(*images).double().cpu(),)

    (found,) = spread(world, -(-count // AT_ONCE), distances, label="diversity", progress=progress)
    std, mean = torch.std_mean(found.flatten()[:count], correction=0)
    return float(mean), float(std)
