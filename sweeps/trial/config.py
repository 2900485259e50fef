"""From a point of the space to the runs that try it, one per seed: their configuration, command and name.

A trial is one configuration under one seed, and is an ordinary run: what starts it is a `spider train` command that
anybody may give again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spider.config.schema import Config
from spider.errors import SpiderUsageError
from spider.runs.compose import require_inputs
from spider.runs.request import TrainRequest
from spider.settings.marks import named
from sweeps.config import SOURCE, AshaConfig, SweepConfig
from sweeps.measure import Measure
from sweeps.space import Axis, Point
from untrusted.words import not_known

_NAME_LETTERS = 120  # of a folder, whose name may have 255


def compose_trial(sweep: SweepConfig, file: str | Path, point: Point, seed: int, run: Path) -> Config:
    """The configuration of a trial. Raises SpiderUsageError that names the key."""
    return TrainRequest(
        file,
        run,
        data=sweep.data,
        source=point.get(SOURCE),
        kimg=sweep.kimg,
        seed=seed,
        overrides=overrides(sweep, point),
    ).compose()


def train_words(
    sweep: SweepConfig, point: Point, source: str | None, *, config: str | Path, seed: int, kimg: float
) -> list[str]:
    """What stands after `spider train --run RUN`."""
    flags = {"--data": sweep.data, "--source": source, "--kimg": f"{kimg}".removesuffix(".0"), "--seed": f"{seed}"}
    given = [word for flag, value in flags.items() if value is not None for word in (flag, value)]
    return [str(config), *given, *overrides(sweep, point)]


def overrides(sweep: SweepConfig, point: Point) -> list[str]:
    """`key=value` of everything that the sweep sets and the point chooses, but the source."""
    keys = {**sweep.overrides, **{key: value for key, value in point.items() if key != SOURCE}}
    return [f"{key}={_yaml(value)}" for key, value in keys.items()]


def settled_source(point: Point, composed: Config) -> str | None:
    """What `--source` is given for good: a run's best and last checkpoint may become others while a sweep goes on."""
    if SOURCE not in point:
        return None
    runs = [each.place for each in named(composed, f"{SOURCE}.") if each.what == "run"]
    return runs[0] if runs else str(point[SOURCE])


def run_name(number: int, axes: Sequence[Axis], point: Point, seed: int) -> str:
    """`0003_source-letters_r1_gamma-0.1_seed-0`: what a folder may be called and tells one trial from another."""
    parts = [f"{axis.key.rpartition('.')[2]}-{axis.label(point[axis.key])}" for axis in axes]
    text = re.sub(r"[^A-Za-z0-9._+-]+", "-", "_".join(parts))[:_NAME_LETTERS].rstrip("-_.")
    return f"{number:04d}_{text}_seed-{seed}"


def check_trial(sweep: SweepConfig, config: Config) -> None:
    """Refuse a configuration that cannot be a trial, by the name of the key, before anything runs.

    Raises:
        SpiderUsageError: it is not measured, or does not go with the resources.
        SpiderError, ShardsError: what it names is not there.
    """
    require_inputs(config)
    config.for_world(sweep.resources.processes)
    settings = config.evaluate
    if settings.every_kimg is None:
        raise SpiderUsageError(
            f"overrides: evaluate.every_kimg is not set, so that there is no {sweep.metric} to compare trials by"
        )
    if sweep.metric not in settings.metrics:
        raise SpiderUsageError(f"metric={sweep.metric} is not among evaluate.metrics={list(settings.metrics)}")
    if isinstance(sweep.scheduler, AshaConfig) and sweep.scheduler.grace_kimg < settings.every_kimg:
        raise SpiderUsageError(
            f"scheduler.grace_kimg={sweep.scheduler.grace_kimg:g} is before the first evaluation, "
            f"at evaluate.every_kimg={settings.every_kimg:g}"
        )
    if config.compute.device == "cuda" and sweep.resources.gpus == 0:
        raise SpiderUsageError("compute.device=cuda needs a GPU, and resources.gpus is 0")


def make_measure(sweep: SweepConfig, config: Config) -> Measure:
    """What the trials are compared by. Raises SpiderUsageError for a metric that does not say which is better."""
    from spider.judge.metrics.registry import METRICS

    unknown = [name for name in (sweep.metric, *config.evaluate.metrics) if name not in METRICS]
    if unknown:
        raise SpiderUsageError(f"metric: {not_known(unknown[0], METRICS)}")
    better = METRICS[sweep.metric].better
    if better is None:
        able = ", ".join(name for name, metric in METRICS.items() if metric.better is not None)
        raise SpiderUsageError(f"metric={sweep.metric}: neither low nor high is better; one of {able}")
    assert config.evaluate.every_kimg is not None
    return Measure(sweep.metric, better, config.evaluate.every_kimg, sweep.kimg)


def hyperparameters(axes: Sequence[Axis], point: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What TensorBoard's table of hyperparameters shows of a trial: numbers as numbers, anything else by its label."""
    shown = {}
    for axis in axes:
        value = point[axis.key]
        is_plain = isinstance(value, int | float | bool) or (isinstance(value, str) and axis.key != SOURCE)
        shown[axis.key] = value if is_plain else axis.label(value)
    return {**shown, "seed": seed}


def _yaml(value: Any) -> str:
    """A value as an override says it."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value):
        return value if value.lower() not in _WORDS else json.dumps(value)
    return json.dumps(value)


_WORDS = {"true", "false", "null"}
