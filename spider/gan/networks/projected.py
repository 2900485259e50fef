"""A discriminator that looks through pretrained networks (Projected GAN, Sauer et al. 2021; StyleGAN-XL, 2022).

    images --EfficientNet-Lite0, frozen--> maps of 1/4, 1/8, 1/16, 1/32 of the side
    --frozen layers of random weights (`projected_mixing`)--> 4 maps of 1/2, 1/4, 1/8, 1/16 of the side
    --a head each, trained (`projected_heads`)--> 25 logits each at 256 px, 16 at 224 px

Several networks are looked through side by side, each with mixing and heads of its own (`look`). Each is shown a view
of the images that is augmented by draws of its own (`spider.gan.augment.shown`). Logits stand one network after the
other.

Outputs, gradients and channels are those of the public implementations (autonomousvision/projected_gan and stylegan-xl,
pg_modules/projector.py and discriminator.py), whose names of the weights are in `spider.gan.networks.projected_names`.
What differs: batch norm is over the global batch, and spectral norms move with steps (`spider.gan.networks.spectral`).
StyleGAN-XL's code adds up its losses over images and networks, where ours are means. In both a loss is of the mean of
each network's logits, so networks weigh alike, also where one has more: 100 of images of 256 px, beside a transformer's
64 of 224 px.

The random weights are drawn like all first weights, by the run's seed, and saved with the run. The pretrained ones are
not: the checkpoint holds their digest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from cluster.world import World
from spider.gan.networks.look import Look, build_look
from spider.gan.networks.projected_config import ProjectedDiscriminatorConfig
from spider.gan.networks.projected_mixing import noisy
from spider.gan.networks.slicing import Sliceable, side_by_side
from spider.gan.networks.spectral import SpectralNetwork
from spider.gan.outputs import Condition, ConditionShape, DOut, Draw


class ProjectedDiscriminator(SpectralNetwork, Sliceable):
    """[N, C, H, W], C = 1 or 3 -> DOut with logits [N, P], of all heads one after the other.

    The modules of the first network stand as `backbone`, `mixing` and `heads`, those of the others in `others`.

    Attributes:
        features: length of `DOut.features["last"]`, the mean of the smallest map that the last head judges.
        views: what the networks after the first look at, see `spider.gan.augment.shown`.
    """

    def __init__(
        self,
        config: ProjectedDiscriminatorConfig,
        image_shape: tuple[int, int, int],
        told: ConditionShape,
        world: World,
    ) -> None:
        super().__init__("discriminator")
        self.looks = tuple(build_look(choice, config, image_shape, told, world) for choice in config.looks)
        first, *others = self.looks
        for name, module in first.modules().items():
            self.add_module(name, module)
        self.others = nn.ModuleList(nn.ModuleDict(look.modules()) for look in others)
        self.views = tuple(f"backbone{number}" for number in range(1, len(self.looks)))
        self.features = sum(look.heads.features for look in self.looks)
        self.noised = config.noised
        self.noise_std = config.noise_std
        seen = first.shown.size if first.shown.size is not None else image_shape[1:]
        self.noisy_maps = config.noisy_maps(first.backbone.channels, first.mixing.channels, seen)
        self.draws = {}
        if self.noisy_maps:
            self.draws["noise"] = Draw("normal", (sum(map(math.prod, self.noisy_maps)),))

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class. Without views all networks look at the images themselves."""
        views = [images, *(condition.views.get(name, images) for name in self.views)]
        return side_by_side([self._seen(*each, condition) for each in zip(self.looks, views, strict=True)])

    def _seen(self, look: Look, images: Tensor, condition: Condition) -> DOut:
        maps = look.backbone.stages(look.shown(images))
        maps = self._noisy(maps, condition) if self.noised == "first" else maps
        maps = look.mixing(maps)
        maps = self._noisy(maps, condition) if self.noised == "last" else maps
        judged: DOut = look.heads(maps, condition)
        return judged

    def _noisy(self, maps: Sequence[Tensor], condition: Condition) -> list[Tensor]:
        if condition.time is None:
            return [*maps]
        noise = torch.split(condition.draws["noise"], [math.prod(shape) for shape in self.noisy_maps], dim=1)
        return noisy(maps, condition.time, noise, self.noise_std)

    def slice(self) -> None:
        """See Sliceable."""
        for look in self.looks:
            look.heads.slice()

    def layers_from_images(self) -> list[list[nn.Module]]:
        """For each number of halvings, the layers of all heads that come so many before the end; then the end."""
        each = [look.heads.layers_from_images() for look in self.looks]
        return [[*chain.from_iterable(layers)] for layers in zip(*each, strict=True)]
