"""What a sweep will do, checked before anything does it, and the files of it that stay the same.

Every point of the space, or its bounds where they cannot be listed, is tried as a configuration: what a run would
refuse is refused here, by its key, before the first image is read.
"""

from __future__ import annotations

from pathlib import Path

from spider.config.load import flatten, parse_yaml, preset_names, preset_text, presets_like, read_mapping
from spider.config.schema import Config
from spider.errors import SpiderUsageError
from spider.files import write_text
from spider.settings.choices import outside_packages
from sweeps.config import SOURCE, NeighborsConfig, SweepConfig, make_sweep, plain, read_sweep, sweep_differences
from sweeps.ledger import Configuration, Ledger, Trial
from sweeps.measure import Measure
from sweeps.neighbor_sources import Ranking, named_sources, neighbor_axis
from sweeps.space import Axis, Point, make_axis, make_search, source_axis
from sweeps.trial.config import (
    check_trial,
    compose_trial,
    hyperparameters,
    make_measure,
    run_name,
    settled_source,
    train_words,
)
from sweeps.trial.spec import TrialSpec
from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.text import decode
from untrusted.yaml_data import MAX_BYTES, to_yaml


class SweepPlan:
    """A sweep and its folder.

    Attributes:
        file: SWEEP.yaml, as it was named.
        sweep: what it says.
        out: the folder, absolute.
        base: the text of what every trial begins with.
        example: the configuration of one trial.
        measure: what trials are compared by.
    """

    def __init__(self, file: str | Path, out: str | Path) -> None:
        """Read, compare with the sweep that `out` holds if it holds one, and check. Writes nothing.

        Raises:
            SpiderUsageError: a key or value that cannot be; `out` holds another sweep.
            SpiderError, ShardsError: what a configuration names is not there.
        """
        self.file, self.sweep, self.out = str(file), read_sweep(file), Path(out).absolute()
        self.base = _text_of(self.sweep.config)
        self._require_the_same()
        self.example = self._check()
        self.measure: Measure = make_measure(self.sweep, self.example)

    @property
    def neighbors(self) -> NeighborsConfig | None:
        """The search that the sources come from, if they do."""
        axis = self.sweep.space.get(SOURCE)
        return None if axis is None else axis.neighbors

    @property
    def full_kimg(self) -> float:
        """How long a run is that begins as the trials do, and is no trial."""
        asked = parse_yaml(self.base, self.sweep.config).get("kimg", Config.model_fields["kimg"].default)
        return max(float(asked), self.sweep.kimg)

    @property
    def label(self) -> str:
        """What tables call the metric, as long as nothing was measured."""
        from spider.judge.metrics.registry import METRICS

        metric, embedding = METRICS[self.sweep.metric], self.example.evaluate.embedding
        return metric.label if embedding == "inception" else f"{metric.elsewhere or metric.label}[{embedding}]"

    def write(self) -> None:
        """sweep.yaml and base.yaml."""
        write_text(self.out / "base.yaml", self.base)
        write_text(self.out / "sweep.yaml", to_yaml(plain(self.sweep)))

    def axes(self, rankings: list[Ranking] | None) -> list[Axis]:
        """The axes in the order of the space; without rankings, any source that could be picked is one."""
        return [
            make_axis(key, axis) if axis.neighbors is None else _source_axis(axis.neighbors, rankings)
            for key, axis in self.sweep.space.items()
        ]

    def ledger(self, axes: list[Axis]) -> Ledger:
        """The configurations that there are, and those to come."""

        def begin(number: int, point: Point) -> Configuration:
            try:
                source = settled_source(point, self._compose(point))
            except SpiderUsageError as error:
                return Configuration(number, point, refused=str(error))
            trials = [Trial(seed, run_name(number, axes, point, seed)) for seed in self.sweep.seeds]
            return Configuration(number, point, source, trials=trials)

        search = make_search(self.sweep, axes, self.measure.better)
        return Ledger(self.out, search, self.measure, begin)

    def trial_spec(self, axes: list[Axis], gpus: float, configuration: Configuration, trial: Trial) -> TrialSpec:
        """What the process of a trial is told."""
        run, resources = self.out / "runs" / trial.name, self.sweep.resources
        return TrialSpec(
            name=trial.name,
            words=train_words(
                self.sweep,
                configuration.point,
                configuration.source,
                config=self.out / "base.yaml",
                seed=trial.seed,
                kimg=self.sweep.kimg,
            ),
            cwd=str(Path.cwd()),
            run=str(run),
            log=str(self.out / "logs" / f"{trial.name}.txt"),
            measure=self.measure,
            hyperparameters=hyperparameters(axes, configuration.point, trial.seed)
            if self.example.log.tensorboard
            else {},
            processes=resources.processes,
            threads=max(1, int(resources.cpus / resources.processes)),
            gpus=gpus > 0,
        )

    def _check(self) -> Config:
        """Try every point that can be listed, or what stands for all; the first one's configuration."""
        axes = self.axes(None)
        first = {axis.key: axis.samples()[0] for axis in axes}
        points = [first, *({**first, axis.key: value} for axis in axes for value in axis.samples()[1:])]
        if self.sweep.search.kind != "optuna":
            search = make_search(self.sweep, axes, "lower")
            points += [search.point(number, ()) for number in range(search.count)]
        return [self._compose(point) for point in points][0]  # noqa: RUF015 (all of them are tried)

    def _compose(self, point: Point) -> Config:
        copy = self.out / "base.yaml"
        file = copy if copy.is_file() else self.sweep.config
        try:
            config = compose_trial(self.sweep, file, point, self.sweep.seeds[0], self.out / "runs" / "none")
            check_trial(self.sweep, config)
        except SpiderUsageError as error:
            # The key is of the sweep, whatever file the trials begin with
            told = str(error).removeprefix(f"{file}: ").removeprefix(f"preset {file}: ")
            raise SpiderUsageError(f"{self.file}: {told}") from None
        return config

    def _require_the_same(self) -> None:
        """Refuse a sweep that is not the one that `out` holds, with the difference."""
        stored = self.out / "sweep.yaml"
        if not stored.is_file():
            return
        before = make_sweep(read_mapping(stored), str(stored))
        found = sweep_differences(before, self.sweep)
        kept = self.out / "base.yaml"
        old, new = flatten(read_mapping(kept)), flatten(parse_yaml(self.base, self.sweep.config))
        found += [
            f"{self.sweep.config}: {key} was {old.get(key)!r}, now {new.get(key)!r}"
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
        ]
        if found:
            raise SpiderUsageError(f"{self.out} holds another sweep ({'; '.join(found)}); use another --out")


def packages(sweep: SweepConfig) -> tuple[str, ...]:
    """The user's own top-level packages and modules that the base, an override or any value of the space names."""
    values = [
        {f"{SOURCE}.kind" if key == SOURCE else key: value}
        for key, axis in sweep.space.items()
        if axis.neighbors is None
        for value in make_axis(key, axis).values
    ]
    return outside_packages([parse_yaml(_text_of(sweep.config), sweep.config), sweep.overrides, *values])


def _source_axis(search: NeighborsConfig, rankings: list[Ranking] | None) -> Axis:
    return source_axis(named_sources(search)) if rankings is None else neighbor_axis(search, rankings)


def _text_of(config: str) -> str:
    """The YAML of a preset or a file. Raises SpiderUsageError."""
    if Path(config).is_file():
        try:
            return decode(read_regular(Path(config), MAX_BYTES), config)
        except UnreadableError as error:
            raise SpiderUsageError(str(error)) from None
    if config not in preset_names():
        raise SpiderUsageError(f"config: {config}: neither a file nor a preset{presets_like(config)}")
    return preset_text(config)
