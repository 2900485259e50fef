"""Which configurations a sweep has, and what became of each: all that a sweep remembers, as files that can be read.

    OUT/configurations/0003.json    {"number": 3, "point": {"source": "/data/letters", "penalties.r1_gamma": 1},
                                     "source": "/data/letters", "refused": null, "trials": [{"seed": 0,
                                     "name": "0003_...", "outcome": "finished", "kimg": 200, "error": null,
                                     "by_machine": false, "judged_kimg": 100,
                                     "last": {"images": 200000, ...}}, ...]}

A configuration is written before its first trial begins, and again when one ends, whole or not at all. Whoever starts
the sweep again, after a kill at any point, goes on from these files and from the runs themselves; nothing of Ray's is
read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from spider.errors import SpiderError
from spider.files import write_text
from spider.runs.directory import RunDirectory
from sweeps.measure import Evaluated, Measure, evaluations
from sweeps.space import Known, Point, Search
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

FORMAT = 1

# How a trial ended: at its length; by the scheduler; because it was no longer finite; because it failed too often
Outcome = Literal["finished", "stopped", "not finite", "failed"]


@dataclass
class Trial:
    """One configuration under one seed.

    Attributes:
        name: of its run's folder.
        outcome: None as long as it has not ended.
        kimg: how far it was measured.
        error: why it failed.
        by_machine: whether it failed by the machine, `retries` times, so that it may go well later.
        judged_kimg: the evaluation up to which a scheduler has let it go on, or ended it.
        last: the evaluation at `kimg`, for good: the run may be made longer, and drops one that was out of turn.
    """

    seed: int
    name: str
    outcome: Outcome | None = None
    kimg: float = 0.0
    error: str | None = None
    by_machine: bool = False
    judged_kimg: float = 0.0
    last: Evaluated | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to do; what failed is tried again by who starts the sweep again."""
        return self.outcome is not None


@dataclass
class Configuration:
    """One point of the space.

    Attributes:
        number: which, from 0.
        source: what `--source` is given, where there is an axis of sources: one checkpoint for good if it is a run.
        refused: why no run can have this configuration, where only the search could find that out.
        trials: by seed; none if it is refused.
    """

    number: int
    point: Point
    source: str | None = None
    refused: str | None = None
    trials: list[Trial] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"format": FORMAT, **asdict(self)}


class Ledger:
    """The configurations of the sweep in `out`."""

    def __init__(
        self,
        out: Path,
        search: Search,
        measure: Measure,
        make: Callable[[int, Point], Configuration],
    ) -> None:
        """Read what is there.

        Args:
            out: the sweep's folder.
            search: gives the points.
            measure: what trials are compared by.
            make: the configuration of a point by its number, not yet begun.

        Raises:
            SpiderError: a file is not one of these.
        """
        self.out, self.measure = out, measure
        self._search, self._make = search, make
        self.configurations = [_read(file) for file in sorted((out / "configurations").glob("[0-9]*.json"))]
        self._given: set[str] = set()
        self._scores: dict[int, float] = {}  # of configurations whose trials are over
        for configuration in self.configurations:
            for trial in configuration.trials:
                if trial.outcome == "failed":
                    trial.outcome, trial.error, trial.by_machine = None, None, False

    @property
    def trials(self) -> Iterator[Trial]:
        """Of all configurations, in order."""
        return (trial for configuration in self.configurations for trial in configuration.trials)

    @property
    def is_complete(self) -> bool:
        """Whether every configuration was tried under every seed."""
        return len(self.configurations) >= self._search.count and all(trial.is_over for trial in self.trials)

    @property
    def configuration_count(self) -> int:
        """How many there will be."""
        return max(self._search.count, len(self.configurations))

    def next_trial(self) -> tuple[Configuration, Trial] | None:
        """A trial that has not ended and was not given before: of a configuration that is there, or of the next one."""
        while True:
            for configuration in self.configurations:
                for trial in configuration.trials:
                    if not trial.is_over and trial.name not in self._given:
                        self._given.add(trial.name)
                        return configuration, trial
            if len(self.configurations) >= self._search.count:
                return None
            self._begin()

    def settle(
        self, name: str, outcome: Outcome, kimg: float = 0.0, error: str | None = None, *, by_machine: bool = False
    ) -> None:
        """Write down how a trial ended."""
        configuration, trial = self._find(name)
        trial.last = next((each for each in self.curve(trial) if each.kimg == kimg), None)
        trial.outcome, trial.kimg, trial.error, trial.by_machine = outcome, kimg, error, by_machine
        self._write(configuration)

    def judge(self, name: str, kimg: float) -> None:
        """Write down that a scheduler has decided about a trial's evaluation at `kimg`."""
        configuration, trial = self._find(name)
        trial.judged_kimg = kimg
        self._write(configuration)

    def run(self, trial: Trial) -> RunDirectory:
        """The folder of a trial."""
        return RunDirectory(self.out / "runs" / trial.name)

    def curve(self, trial: Trial) -> list[Evaluated]:
        """What a trial was measured at, by kimg."""
        found = evaluations(self.run(trial), self.measure)
        if trial.last is None:
            return found
        return [*(each for each in found if each.kimg < trial.last.kimg), trial.last]

    def score(self, configuration: Configuration) -> float | None:
        """What a search is told of a configuration: the mean over its seeds, where the last of them has come to.

        A seed that is no longer finite counts with the penalty. None as long as a trial has not ended.
        """
        if configuration.number not in self._scores:
            score = self._score(configuration)
            if score is None:
                return None
            self._scores[configuration.number] = score
        return self._scores[configuration.number]

    def _score(self, configuration: Configuration) -> float | None:
        if configuration.refused is not None:
            return self.measure.penalty
        ended = [trial for trial in configuration.trials if trial.outcome not in (None, "failed")]
        if len(ended) < len(configuration.trials):
            return None
        found = common([self.curve(trial) for trial in ended if trial.outcome != "not finite"])
        values = [*found[1], *[self.measure.penalty for trial in ended if trial.outcome == "not finite"]]
        return sum(values) / len(values)

    def _find(self, name: str) -> tuple[Configuration, Trial]:
        return next(
            (configuration, trial)
            for configuration in self.configurations
            for trial in configuration.trials
            if trial.name == name
        )

    def _begin(self) -> None:
        number = len(self.configurations)
        known = [Known(each.point, self.score(each)) for each in self.configurations]
        configuration = self._make(number, self._search.point(number, known))
        self.configurations.append(configuration)
        self._write(configuration)

    def _write(self, configuration: Configuration) -> None:
        text = json.dumps(configuration.to_json(), indent=2, allow_nan=False) + "\n"
        write_text(self.out / "configurations" / f"{configuration.number:04d}.json", text)


def common(curves: Sequence[Sequence[Evaluated]]) -> tuple[float, list[float]]:
    """The largest kimg at which every curve has a value, and those values; (0, []) if there is none."""
    known = [{each.kimg: each.value for each in curve if each.value is not None} for curve in curves]
    shared = set.intersection(*(set(each) for each in known)) if known else set()
    if not shared:
        return 0.0, []
    kimg = max(shared)
    return kimg, [each[kimg] for each in known]


class _Document(TypedDict):
    """A file of configurations/."""

    format: int
    number: int
    point: dict[str, Any]
    source: str | None
    refused: str | None
    trials: list[Trial]


def _read(file: Path) -> Configuration:
    try:
        tree = checked(read_json(file), _Document, str(file))
    except UnreadableError as error:
        raise SpiderError(f"{file}: not a configuration of a sweep: {str(error).removeprefix(f'{file}: ')}") from error
    if tree["format"] != FORMAT:
        raise SpiderError(f"{file}: not a configuration of a sweep: not of format {FORMAT}")
    return Configuration(tree["number"], tree["point"], tree["source"], tree["refused"], tree["trials"])
