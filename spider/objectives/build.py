"""From settings to the objective."""

from __future__ import annotations

from spider.objectives.config import ObjectiveChoice
from spider.objectives.hinge import Hinge
from spider.objectives.least_squares import LeastSquares
from spider.objectives.non_saturating import NonSaturating
from spider.objectives.objective import Objective
from spider.objectives.relativistic import Relativistic
from spider.objectives.saturating import Saturating
from spider.objectives.wasserstein import Wasserstein

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
