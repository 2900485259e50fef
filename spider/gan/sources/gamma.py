"""A Gamma-distributed squared radius in a uniform direction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from spider import draws
from spider.gan.sources.config import GammaConfig
from spider.gan.sources.prior import Prior


class Gamma(Prior):
    """z = sqrt(rho) nu, nu uniform on the unit sphere, rho ~ Gamma(shape 1/2, scale 1).

    As the authors' code draws it (PolyLSGANs, gan_topics.py): |z| is of order 1, a tenth of a 100-D Gaussian's.
    """

    def __init__(self, config: GammaConfig) -> None:
        super().__init__(config, (config.dim,))

    def draw(self, seed: int, stream: str, indices: Sequence[int]) -> Tensor:
        """See Prior."""
        direction = draws.normal(seed, stream, indices, self.shape)
        # Gamma(1/2, 1) is half a squared normal, so its root is a normal's magnitude over sqrt(2)
        radius = draws.normal(seed, f"{stream}.radius", indices, (1,)).abs_().div_(2**0.5)
        return direction.div_(direction.norm(dim=1, keepdim=True)).mul_(radius)
