"""What goes with CHAIN's normalisation (`spider.gan.networks.chain`): its p, and means of channels held near 0.

    term of D, of real images and of generated ones: weight (p + least) sum over layers and channels of (mean of x_c)^2
    after each iteration: s = 0.9 s + 0.1 E sign D(real),   p = p + 0.001 sign(s - target), from 0 to 1

Rule and term are those of the public code (MaxwellYaoNi/CHAIN, FastGANDBig), whose generator has no such term either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.auxiliary import Auxiliary, Seen
from spider.gan.auxiliary.config import ChainConfig
from spider.gan.loss import Loss
from spider.gan.method import Sums

_OFF_ZERO = "off_zero"  # the name of the features, [N], whose mean is to be small


class ChainTerms(Auxiliary):
    """See Auxiliary, and the module.

    Attributes:
        p: of all layers.
    """

    def __init__(self, config: ChainConfig, discriminator: nn.Module) -> None:
        """Raises SpiderUsageError: the discriminator has no such layers."""
        layers = getattr(discriminator, "chains", None)
        if not layers:
            raise SpiderUsageError(
                f"auxiliary: kind={config.kind} steers layers that {type(discriminator).__name__} does not have: use "
                "discriminator.kind=dcgan or kind=fastgan with norm=chain or chain_cumulative, or a network with "
                f"chains and features[{_OFF_ZERO!r}]"
            )
        self.layers: Sequence[nn.Module] = layers
        self.config = config
        self.p = self._signs = 0.0

    def discriminator(self, real: Seen, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        strength = self.p + self.config.least
        return Loss({name: strength * seen.out.features[_OFF_ZERO] for name, seen in (("real", real), ("fake", fake))})

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method."""
        if "signs/real" not in sums:
            return
        signs, count = sums["signs/real"]
        self._signs = self.config.decay * self._signs + (1 - self.config.decay) * signs / count
        above = self._signs - self.config.target
        self._set(self.p + self.config.step * ((above > 0) - (above < 0)))

    def state(self) -> dict[str, Any]:
        """See Method."""
        return {"p": self.p, "signs": self._signs}

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        self._signs = state["signs"]
        self._set(state["p"])

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        return {"chain/p": self.p}

    def _set(self, p: float) -> None:
        self.p = min(1.0, max(0.0, p))
        for layer in self.layers:
            layer.get_buffer("p").fill_(self.p)
