"""Settings of the overfitting controller."""

from __future__ import annotations

from pydantic import Field

from spider.arguments import MIN_KIMG
from spider.settings.section import MAX_FACTOR, MAX_KIMG, MAX_STEPS, Section


class OverfitConfig(Section):
    """The rule of p, which grows with overfitting. This p steers selection.kind=adaptive; ADA has one of its own.

    eta = E sign D(real) above `target` raises p, below lowers it (StyleGAN2-ADA's rule, which ATop-k adopts). There is
    one eta in a run: the p of Top-k and those of ADA and APA are led by the same, each by its own target and speed.
    With objective.kind=wasserstein and relativistic, whose D has no zero, it is E sign (D(real) - D(fake)), by pairs.
    """

    target: float = Field(0.6, gt=-1, lt=1, description="eta at which p stays where it is")
    interval_steps: int = Field(4, ge=1, le=MAX_STEPS, description="iterations between two adjustments of p")
    rise_kimg: float = Field(
        500.0, ge=MIN_KIMG, le=MAX_KIMG, description="images over which p would rise from 0 to 1, in thousands"
    )
    p_start: float = Field(0.0, ge=0, le=MAX_FACTOR, description="p at the beginning of the run")
    p_max: float | None = Field(
        1.0, gt=0, le=MAX_FACTOR, description="upper bound of p; null = none, as the paper states it"
    )
