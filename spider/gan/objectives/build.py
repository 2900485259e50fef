"""From settings to the objective."""

from __future__ import annotations

from spider.gan.objectives.config import ObjectiveChoice
from spider.gan.objectives.hinge import Hinge
from spider.gan.objectives.least_squares import LeastSquares
from spider.gan.objectives.non_saturating import NonSaturating
from spider.gan.objectives.objective import Objective
from spider.gan.objectives.relativistic import Relativistic
from spider.gan.objectives.saturating import Saturating
from spider.gan.objectives.wasserstein import Wasserstein

_CHOICES: dict[str, type[Objective]] = {
    "wasserstein": Wasserstein,
    "hinge": Hinge,
    "non_saturating": NonSaturating,
    "saturating": Saturating,
    "least_squares": LeastSquares,
    "relativistic": Relativistic,
}


def build_objective(config: ObjectiveChoice) -> Objective:
    """The objective that the settings name."""
    made = _CHOICES.get(config.kind)
    return config.build() if made is None else made()
