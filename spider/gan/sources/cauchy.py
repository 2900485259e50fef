"""Independent Cauchy coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spider import draws
from spider.gan.sources.config import CauchyConfig
from spider.gan.sources.prior import Prior


class Cauchy(Prior):
    """Standard Cauchy, coordinate by coordinate, as the authors' code draws it (the law they cite is multivariate)."""

    def __init__(self, config: CauchyConfig) -> None:
        super().__init__(config, (config.dim,))

    def draw(self, seed: int, stream: str, indices: Sequence[int]) -> Tensor:
        """See Prior."""
        pair = draws.normal(seed, stream, indices, (2, *self.shape))
        # A ratio of two normals; a denominator of exactly 0 has probability 2^-24 and would be infinite
        tiny = torch.finfo(torch.float32).tiny
        return pair[:, 0] / torch.where(pair[:, 1] == 0, tiny, pair[:, 1])
