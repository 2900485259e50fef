"""Independent normal coordinates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from spider import draws
from spider.gan.sources.config import GaussianConfig
from spider.gan.sources.prior import Prior


class Gaussian(Prior):
    """z ~ N(0, std^2 I)."""

    def __init__(self, config: GaussianConfig) -> None:
        super().__init__(config, (config.dim,))
        self.std = config.std

    def draw(self, seed: int, stream: str, indices: Sequence[int]) -> Tensor:
        """See Prior."""
        return draws.normal(seed, stream, indices, self.shape).mul_(self.std)
