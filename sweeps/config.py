"""What a sweep is, as SWEEP.yaml says it: which runs, chosen how, measured by what. Needs neither torch nor Ray.

    config: spider-dcgan                a preset or a YAML file: what every trial begins with
    data: shards/mnist                  the images to learn
    kimg: 200                           length of every trial, in thousand images
    overrides:                          keys that every trial has (spider config explain KEY)
      evaluate.every_kimg: 20
      evaluate.embedding: offline
    seeds: 2                            0 and 1, for every configuration; or a list: [3, 14]
    metric: fid                         what is compared, one of `evaluate.metrics`
    space:                              what differs: `source`, which takes what `--source` takes, and any key
      source: {grid: [shards/letters, shards/fashion, gaussian]}
      penalties.r1_gamma: {grid: [0.1, 1, 10]}
    search: grid                        every combination; or {kind: random, trials: 20, seed: 0}, or optuna likewise
    scheduler: fifo                     every trial to its end; or {kind: asha, grace_kimg: 20, reduction_factor: 3}
    at_once: null                       trials at a time; null: as many as there is room for
    resources: {cpus: 1, gpus: null, processes: 1}
    retries: 2                          of a trial that dies, each from its last checkpoint

An axis of the space is one of

    grid: [...]             every value; under random search with every draw of the others
    choice: [...]           one of them is drawn
    uniform: [low, high]    drawn between them, both included
    loguniform: [low, high] the same in logarithm
    randint: [low, high]    a whole number, both included
    neighbors: {...}        of `source` only: what a neighbour search among `sources` picks under any of its `orders`

A value may be a number, a text, a list or a mapping: `objective: {choice: [{kind: hinge}, {kind: wasserstein}]}`.
Places are relative to where the command is given, as on the command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from shards.missing import no_such
from spider.config.explain import place_keys
from spider.config.load import flatten, read_mapping
from spider.data import absolute
from spider.errors import SpiderUsageError, shown
from spider.gan.sources.config import PRIORS
from spider.judge.sid.rules import PAPER, RULES
from spider.runs.directory import split_name
from spider.runs.inputs import at_key
from spider.settings.choices import is_outside
from spider.settings.section import Place, Section
from untrusted.words import did_you_mean, not_known

SOURCE = "source"  # the axis that names what `--source` takes

_MAX_SEEDS = 10_000
_DOMAINS = ("grid", "choice", "uniform", "loguniform", "randint", "neighbors")
_SAID_ELSEWHERE = {"data": "data", "data.path": "data", "kimg": "kimg", "seed": "seeds"}
_SAID_BY_SOURCE = (f"{SOURCE}.kind", *(key for key in place_keys() if key.startswith(f"{SOURCE}.")))
_SAME_FOR_ALL = ("evaluate", "log", "checkpoint", "guard", "engine")


def _named(value: Any) -> Any:
    """`grid` for {kind: grid}."""
    return {"kind": value} if isinstance(value, str) else value


class NeighborsConfig(Section):
    """The neighbour search whose picks become the values of `source`."""

    sources: tuple[Place, ...] | dict[str, Place] = Field(min_length=1)
    orders: tuple[float | str, ...] = Field((-1.0,), min_length=1)
    rule: str = PAPER
    picks: int | Literal["all"] = 3
    embedding: str = "inception"
    protocol: str | None = None
    weights: Place | None = None
    mode: str = "robust"
    images: int | None = Field(None, ge=2)
    shortlist: int = Field(20, ge=1)
    seed: int = Field(0, ge=0)
    keep_negative: bool = False
    keep_gray: bool = False

    @field_validator("rule")
    @classmethod
    def _is_known(cls, rule: str) -> str:
        if rule not in RULES:
            raise ValueError(f"rule {not_known(rule, RULES)}")
        return rule

    @field_validator("picks")
    @classmethod
    def _at_least_one(cls, picks: int | str) -> int | str:
        if isinstance(picks, int) and picks < 1:
            raise ValueError(f"picks={picks}: at least 1, or all")
        return picks


class AxisConfig(Section):
    """The values that one key takes: one of the six ways."""

    grid: tuple[Any, ...] | None = Field(None, min_length=1)
    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None
    neighbors: NeighborsConfig | None = None

    @model_validator(mode="after")
    def _is_one_domain(self) -> AxisConfig:
        if len([name for name in _DOMAINS if getattr(self, name) is not None]) != 1:
            raise ValueError(f"an axis is one of {', '.join(_DOMAINS)}")
        for name in ("uniform", "loguniform", "randint"):
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] < bounds[1]:
                wrong = (
                    "is one value; write grid" if bounds[0] == bounds[1] else "goes down; write the lower bound first"
                )
                raise ValueError(f"{name}: [{bounds[0]:g}, {bounds[1]:g}] {wrong}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform: the lower bound is {self.loguniform[0]:g}, and must be above 0")
        return self

    @property
    def domain(self) -> str:
        """Which of the six ways."""
        return next(name for name in _DOMAINS if getattr(self, name) is not None)


class GridConfig(Section):
    """Every combination."""

    kind: Literal["grid"] = "grid"


class RandomConfig(Section):
    """Combinations drawn by `seed`: the n-th is always the same one."""

    kind: Literal["random"] = "random"
    trials: int = Field(ge=1)
    seed: int = Field(0, ge=0)


class OptunaConfig(Section):
    """Combinations that Optuna's tree of Parzen estimators suggests, from what the earlier ones came to."""

    kind: Literal["optuna"] = "optuna"
    trials: int = Field(ge=1)
    seed: int = Field(0, ge=0)


class FifoConfig(Section):
    """Every trial runs to its end."""

    kind: Literal["fifo"] = "fifo"


class AshaConfig(Section):
    """At `grace_kimg` times every power of `reduction_factor`, only the best of the trials that came so far go on."""

    kind: Literal["asha"] = "asha"
    grace_kimg: float = Field(gt=0)
    reduction_factor: float = Field(3.0, gt=1)


class ResourcesConfig(Section):
    """What a trial gets. Several `processes` are one training on one machine, the GPUs of the trial shared out."""

    cpus: float = Field(1.0, gt=0)
    gpus: float | None = Field(None, ge=0)
    processes: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _is_whole_beyond_one(self) -> ResourcesConfig:
        gpus = self.gpus or 0.0
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus={gpus:g}: a part of one GPU, or whole ones")
        if self.processes > 1 and gpus not in (0, self.processes):
            raise ValueError(f"gpus={gpus:g}: processes={self.processes} take a GPU each, or none")
        return self

    def gpus_where(self, *, has_any: bool) -> float:
        """GPUs of a trial: as asked; or one for each process, where there are any."""
        if self.gpus is not None:
            return self.gpus
        return float(self.processes) if has_any else 0.0


def trials_on(machine_cpus: float, machine_gpus: float, cpus: float, gpus: float) -> int:
    """How many trials one machine has room for. A part of a GPU is of one GPU."""
    by_cpu = int(machine_cpus / cpus + 1e-9)
    if not gpus:
        return by_cpu
    if gpus < 1:
        return min(by_cpu, int(machine_gpus) * int(1 / gpus + 1e-9))
    return min(by_cpu, int(machine_gpus / gpus + 1e-9))


class SweepConfig(Section):
    """A sweep."""

    config: Place
    data: Place | None = None
    kimg: float = Field(gt=0)
    overrides: dict[str, Any] = Field({})
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    metric: str = "fid"
    space: dict[str, AxisConfig] = Field(min_length=1)
    search: Annotated[
        Annotated[GridConfig | RandomConfig | OptunaConfig, Field(discriminator="kind")], BeforeValidator(_named)
    ] = GridConfig()
    scheduler: Annotated[Annotated[FifoConfig | AshaConfig, Field(discriminator="kind")], BeforeValidator(_named)] = (
        FifoConfig()
    )
    at_once: int | None = Field(None, ge=1)
    resources: ResourcesConfig = ResourcesConfig()
    retries: int = Field(2, ge=0)

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, seeds: Any) -> Any:
        if not isinstance(seeds, int) or isinstance(seeds, bool):
            return seeds
        if not 1 <= seeds <= _MAX_SEEDS:
            raise ValueError(f"seeds: {shown(seeds)} of them; from 1 to {_MAX_SEEDS}")
        return range(seeds)

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds: {list(seeds)} names one twice")
        return seeds

    @model_validator(mode="after")
    def _keys_have_one_place(self) -> SweepConfig:
        for section, keys in (("overrides", self.overrides), ("space", self.space)):
            for key in keys:
                if key in _SAID_ELSEWHERE:
                    raise ValueError(f"{section}.{key}: is said once for the whole sweep, as `{_SAID_ELSEWHERE[key]}`")
        for key in self.space:
            if key in self.overrides:
                raise ValueError(f"space.{key}: stands in overrides as well")
            if key.partition(".")[0] in _SAME_FOR_ALL:
                raise ValueError(f"space.{key}: must be the same for all trials, or their numbers compare nothing")
            for section, keys in (("overrides", self.overrides), ("space", self.space)):
                for other in keys:
                    self._require_apart(key, f"{section}.{other}", other)
        return self

    def _require_apart(self, key: str, where: str, other: str) -> None:
        """Refuse a value that another one would replace, in whole or in part."""
        if key == SOURCE or other == SOURCE:  # the one word of `--source`, beside which other keys of it may stand
            said = {key, other} & set(_SAID_BY_SOURCE)
            if said:
                raise ValueError(f"{where}: {said.pop()} is what space.{SOURCE} says")
        elif other.startswith(f"{key}.") or key.startswith(f"{other}."):
            raise ValueError(f"space.{key}: {where} says a part of the same")

    @model_validator(mode="after")
    def _search_can_do_it(self) -> SweepConfig:
        for key, axis in self.space.items():
            domain = axis.domain
            if domain == "neighbors" and key != SOURCE:
                raise ValueError(f"space.{key}: neighbors are values of `{SOURCE}` only")
            if key == SOURCE and domain not in ("grid", "choice", "neighbors"):
                raise ValueError(f"space.{key}: {domain} gives numbers; a source is of a grid, a choice or neighbors")
            if self.search.kind == "grid" and domain not in ("grid", "neighbors"):
                raise ValueError(f"space.{key}: {domain} is drawn from, which search=grid does not: write grid")
            if self.search.kind == "optuna" and domain == "grid":
                raise ValueError(f"space.{key}: grid is for search=grid or random; for optuna write choice")
        return self

    @model_validator(mode="after")
    def _grace_ends_before_the_trial(self) -> SweepConfig:
        if isinstance(self.scheduler, AshaConfig) and self.scheduler.grace_kimg >= self.kimg:
            raise ValueError(f"scheduler.grace_kimg={self.scheduler.grace_kimg:g} is not below kimg={self.kimg:g}")
        return self


def read_sweep(file: str | Path) -> SweepConfig:
    """Read SWEEP.yaml. Raises SpiderUsageError, one line that names the key and the value."""
    path = Path(file)
    if not path.is_file():
        raise SpiderUsageError(no_such(path, "file"))
    return make_sweep(read_mapping(path), str(file))


def make_sweep(tree: Mapping[str, Any], where: str = "sweep") -> SweepConfig:
    """A sweep from plain data, with every place made absolute. Raises SpiderUsageError as `read_sweep` does."""
    try:
        sweep = SweepConfig.model_validate(tree)
    except ValidationError as error:
        described = "; ".join(_describe(detail) for detail in error.errors())
        raise SpiderUsageError(f"{where}: {described}") from None
    placed = _with_absolute_places(sweep)
    for key, value in placed.overrides.items():
        _require_plain(value, f"{where}: overrides.{key}")
    for key, axis in placed.space.items():
        values = list(getattr(axis, axis.domain)) if axis.domain in ("grid", "choice") else []
        for number, value in enumerate(values):
            _require_plain(value, f"{where}: space.{key}.{axis.domain}")
            if any(value == other and type(value) is type(other) for other in values[:number]):
                raise SpiderUsageError(f"{where}: space.{key}: {axis.domain}: {shown(value)} stands there twice")
    return placed


def _require_plain(value: Any, where: str) -> None:
    try:
        is_kept = json.loads(json.dumps(value, allow_nan=False)) == value
    except TypeError:
        kind = type(value).__name__
        raise SpiderUsageError(f"{where}: {str(value)[:60]} is read as a {kind}; write it in quotes") from None
    except ValueError:
        is_kept = False
    if not is_kept:
        raise SpiderUsageError(f"{where}: {shown(value)}: numbers are finite, and keys are text")


def plain(sweep: SweepConfig) -> dict[str, Any]:
    """Plain data, from which `make_sweep` makes the same sweep."""
    tree = sweep.model_dump(mode="json")
    for key, axis in tree["space"].items():
        tree["space"][key] = {name: value for name, value in axis.items() if value is not None}
    return tree


def sweep_differences(old: SweepConfig, new: SweepConfig) -> list[str]:
    """A line for each key that two sweeps differ in and may not: what a sweep computes, not how it is carried out."""
    before, after = (flatten(_fixed(sweep)) for sweep in (old, new))
    return [
        f"{key}: it began with {before.get(key)!r}, now {after.get(key)!r}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _fixed(sweep: SweepConfig) -> dict[str, Any]:
    tree = plain(sweep)
    for key in ("at_once", "retries", "resources"):
        del tree[key]
    tree["search"].pop("trials", None)
    return tree


def _with_absolute_places(sweep: SweepConfig) -> SweepConfig:
    config = os.path.abspath(sweep.config) if Path(sweep.config).is_file() else sweep.config
    data = None if sweep.data is None else absolute(sweep.data)
    overrides = {key: _absolute_override(key, value) for key, value in sweep.overrides.items()}
    space = {key: _absolute_axis(axis) if key == SOURCE else axis for key, axis in sweep.space.items()}
    return sweep.model_copy(update={"config": config, "data": data, "overrides": overrides, "space": space})


def _absolute_override(key: str, value: Any) -> Any:
    if key not in place_keys() or value is None:
        return value
    with at_key(f"overrides.{key}"):
        return _absolute_place(str(value))


def _absolute_axis(axis: AxisConfig) -> AxisConfig:
    if axis.neighbors is not None:
        found = axis.neighbors
        places: Any = (
            {name: absolute(place) for name, place in found.sources.items()}
            if isinstance(found.sources, Mapping)
            else tuple(absolute(place) for place in found.sources)
        )
        weights = None if found.weights is None else absolute(found.weights)
        return axis.model_copy(update={"neighbors": found.model_copy(update={"sources": places, "weights": weights})})
    with at_key(f"space.{SOURCE}"):
        values = tuple(_absolute_source(str(value)) for value in getattr(axis, axis.domain))
    return axis.model_copy(update={axis.domain: values})


def _absolute_source(source: str) -> str:
    """A prior's name, or a class's, as it is; a place from any folder."""
    return source if source in PRIORS or is_outside(source) else _absolute_place(source)


def _absolute_place(place: str) -> str:
    """A file's or folder's; or a run's, with what stands behind its @."""
    path, which = split_name(place)
    return f"{os.path.abspath(path)}@{which}" if which else absolute(place)


def _describe(detail: Mapping[str, Any]) -> str:
    location = [str(part) for part in detail["loc"]]
    if len(location) > 1 and location[0] in ("search", "scheduler"):
        del location[1]  # the choice's name, which pydantic puts into the path
    key, message = ".".join(location), str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "model_type" and location[:1] == ["space"]:
        return f"{key}: found {shown(detail['input'])}; an axis is {{grid: [...]}}, or {', '.join(_DOMAINS[1:])}"
    if detail["type"] == "too_short":
        return f"{key}: is empty"
    if detail["type"] == "extra_forbidden":
        return f"{key}: no such key{_suggestion(location)}"
    if detail["type"] == "missing":
        return f"{key}: missing, and has no default"
    if detail["type"] == "value_error":
        return message if not key or message.startswith(key.partition(".")[0]) else f"{key}: {message}"
    if detail["type"].startswith("union_tag"):
        return f"{key}.kind: found {shown(detail['input'])}, allowed: {detail['ctx'].get('expected_tags', '')}"
    return f"{key}: {message[0].lower()}{message[1:]}, found {shown(detail['input'])}"


def _suggestion(location: list[str]) -> str:
    models: dict[str, Iterator[str]] = {
        "": iter(SweepConfig.model_fields),
        "space": iter(AxisConfig.model_fields),
        "resources": iter(ResourcesConfig.model_fields),
    }
    known = models.get(location[0] if len(location) > 1 else "", iter(()))
    return did_you_mean(location[-1], known)
