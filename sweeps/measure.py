"""What trials are compared by, and the evaluations of a run by which they are. Needs no torch, and little memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spider.errors import SpiderError
from spider.judge.metrics.results import read_results
from spider.runs.directory import RunDirectory

Better = Literal["lower", "higher"]

PENALTY = 1e6  # the value of a trial that is no longer finite: worse than any metric is, and a number to search by


@dataclass(frozen=True)
class Measure:
    """What trials are compared by.

    Attributes:
        metric: its name in the registry.
        better: which way.
        every_kimg: between two evaluations of a trial.
        length_kimg: of a trial.
    """

    metric: str
    better: Better
    every_kimg: float
    length_kimg: float

    @property
    def penalty(self) -> float:
        """The value of a trial that is no longer finite."""
        return PENALTY if self.better == "lower" else -PENALTY

    def due_kimg(self, images: int) -> float:
        """At how many kimg an evaluation was due that was made after the batch that ended at `images`."""
        if images >= round(self.length_kimg * 1000):
            return self.length_kimg
        return round(int(images / (self.every_kimg * 1000) + 1e-9) * self.every_kimg, 6)


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of a run.

    Attributes:
        images: the clock.
        kimg: at which it was due: the same for all trials, whatever their batch.
        value: the metric, None where it is undefined.
        label: what tables call it.
    """

    images: int
    kimg: float
    value: float | None
    label: str


def evaluations(run: RunDirectory, measure: Measure) -> list[Evaluated]:
    """The run's evaluations up to the length of a trial, by kimg."""
    found: dict[float, Evaluated] = {}
    for images, file in run.evaluation_files().items():
        kimg = measure.due_kimg(images)
        if kimg in found:  # of a run that was made longer afterwards
            continue
        try:
            results = read_results(file)
        except SpiderError:
            if file.exists():
                raise
            continue  # a run that goes on from a checkpoint takes later evaluations back
        for result in results:
            if result.name == measure.metric:
                found[kimg] = Evaluated(images, kimg, result.value, result.label)
    return list(found.values())
