"""The controller of p, shared in form by ADA and ATop-k.

    eta = E sign D(real) over the images since the last adjustment
    p  <- p + sign(eta - target) * (images since the last adjustment) / (1000 rise_kimg), clamped to [0, p_max]

D(real) is what the objective says of how real an image is (`Objective.realness`), 0 in the middle.

StyleGAN2-ADA's rule (training_loop.py); ATop-k, section 3.3, takes it over with target 0.6, every 4 iterations,
500 kimg. The upper clamp is ours: the paper states none, and without one p winds up far past 1 and is slow to return.

One difference: eta is of the discriminator's main steps. The public code also counts the logits of the step on R1,
every 16 iterations: one adjustment in four there is of five batches, the fifth being one of the four again, under other
draws of the augmentation and after the step on it. Without them eta is the same whether or not
R1 has a step of its own.
"""

from __future__ import annotations

from typing import Any

from spider.gan.method import Method, Sums
from spider.gan.overfit.config import OverfitConfig


class OverfitController(Method):
    """p, and what was seen since it last moved. Identical on every rank, because it is told of the global batch."""

    def __init__(self, config: OverfitConfig, batch: int) -> None:
        self.config = config
        self.move = batch * config.interval_steps / (config.rise_kimg * 1000)
        self.p = config.p_start
        self.eta: float | None = None  # at the last adjustment
        self._seen = (0.0, 0.0)

    def observe(self, sign_sum: float, count: float) -> None:
        """Add the signs of the discriminator's logits of real images over the global batch: their sum and number."""
        self._seen = self._seen[0] + sign_sum, self._seen[1] + count

    def due(self, step: int) -> bool:
        """Whether p moves at the end of iteration `step` (counted from 0)."""
        return (step + 1) % self.config.interval_steps == 0

    def adjust(self) -> None:
        """Move p by one step towards what eta says, and begin to count anew."""
        sign_sum, count = self._seen
        if count == 0:
            return
        self.eta = sign_sum / count
        self._seen = (0.0, 0.0)
        above, below = self.eta > self.config.target, self.eta < self.config.target
        p = max(0.0, self.p + self.move * (above - below))
        self.p = p if self.config.p_max is None else min(p, self.config.p_max)

    def iterated(self, step: int, images: int, sums: Sums) -> None:
        """See Method."""
        if "signs/real" in sums:
            self.observe(*sums["signs/real"])
        if self.due(step):
            self.adjust()

    def columns(self, images: int) -> dict[str, float | None]:
        """See Method."""
        return {"overfit/eta": self.eta, "overfit/p": self.p}

    def state(self) -> dict[str, Any]:
        """See Method."""
        return {"p": self.p, "eta": self.eta, **dict(zip(("sign_sum", "count"), self._seen, strict=True))}

    def load(self, state: dict[str, Any]) -> None:
        """See Method."""
        self.p, self.eta = state["p"], state["eta"]
        self._seen = state["sign_sum"], state["count"]
