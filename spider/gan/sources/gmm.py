"""A mixture of Gaussians that trains with the generator (DeLiGAN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spider import draws
from spider.gan.sources.config import GmmConfig
from spider.gan.sources.prior import Prior
from spider.gan.sources.source import Frontend


class Gmm(Prior):
    """Draws (u, eps): which component, and the normal that it scales. The mixture itself is the frontend.

    Constants of DeLiGAN's MNIST code (mu ~ U(-1, 1), sigma = 0.2, 50 components, 30 dimensions).
    """

    def __init__(self, config: GmmConfig) -> None:
        super().__init__(config, (1 + config.dim,))
        self.gmm = config

    def draw(self, seed: int, stream: str, indices: Sequence[int]) -> Tensor:
        """See Prior. [N, 1 + dim]: a uniform number in [0, 1), then the normals."""
        component = draws.uniform(seed, f"{stream}.component", indices, (1,))
        return torch.cat([component, draws.normal(seed, stream, indices, (self.gmm.dim,))], dim=1)

    def frontend(self) -> Frontend:
        """See Source."""
        return GmmFrontend(self.gmm)


class GmmFrontend(Frontend):
    """(u, eps) to z = mu_i + sigma_i eps with i = floor(u components). [N, 1 + dim] -> [N, dim]."""

    def __init__(self, config: GmmConfig) -> None:
        super().__init__()
        self.shape = (config.dim,)
        mean = torch.rand(config.components, config.dim) * 2 - 1
        std = torch.full((config.components, config.dim), config.std)
        self.mean = nn.Parameter(mean, requires_grad=config.trainable)
        self.std = nn.Parameter(std, requires_grad=config.trainable)

    def forward(self, drawn: Tensor) -> Tensor:
        """See the class."""
        component = (drawn[:, 0] * len(self.mean)).long().clamp_max(len(self.mean) - 1)
        return self.mean[component] + self.std[component] * drawn[:, 1:]

    def penalty(self) -> Tensor:
        """mean (sigma - 1)^2 / 3, so that components do not shrink to points. Scalar."""
        return (self.std - 1).square().mean() / 3
