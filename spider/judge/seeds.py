"""A number under several training seeds: mean, spread, paired differences and their interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student


@dataclass(frozen=True)
class Spread:
    """Values over training seeds.

    Attributes:
        values: by seed, those that there are.
    """

    values: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """None: there are none."""
        return fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None: fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the mean over all seeds there could be lies with 95 % confidence (Student's t); None as `std`."""
        if self.mean is None or self.std is None:
            return None
        count = len(self.values)
        half = float(student.ppf(0.975, count - 1)) * self.std / math.sqrt(count)
        return self.mean - half, self.mean + half

    def minus(self, other: Spread) -> Spread:
        """The paired differences, of the seeds that both have."""
        return Spread({seed: value - other.values[seed] for seed, value in self.values.items() if seed in other.values})

    @property
    def is_zero(self) -> bool:
        """Of differences: under each seed both are the same number."""
        return bool(self.values) and not any(self.values.values())

    def told_interval(self) -> str:
        """What `interval` says of paired differences: of chance. Empty where there are none."""
        if self.interval is None:
            return "" if self.mean is None else "One seed says nothing of chance."
        low, high = self.interval
        verdict = "which includes 0" if low <= 0 <= high else "which excludes 0"
        return f"95 % interval of the difference {low:+.3g} to {high:+.3g}, {verdict}."
