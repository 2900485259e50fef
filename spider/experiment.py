"""From the words of `spider train` to the configuration that will run. Needs no torch: mistakes show at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from shards.missing import no_such
from spider import weights
from spider.config.load import load_config, make_config, preset_names
from spider.config.schema import Config
from spider.data import absolute
from spider.errors import SpiderUsageError
from spider.inputs import (
    Inputs,
    at_key,
    moved_run,
    name_for_good,
    named_images,
    recorded,
    require_found,
    require_source_run,
)
from spider.run import RunDirectory, RunRef, images_of, is_run, resolve
from spider.sources.config import PRIORS
from spider.train.start import length

_OTHER_WEIGHTS = "or name a file: evaluate.weights=FILE; evaluate.embedding=offline needs none"


def compose(
    config: str | Path | None,
    directory: RunDirectory,
    *,
    data: str | Path | None = None,
    source: str | Path | None = None,
    kimg: float | str | None = None,
    seed: int | None = None,
    mirror: bool = False,
    overrides: Sequence[str] = (),
    branch: RunRef | None = None,
) -> Config:
    """The configuration that the arguments describe.

    Args:
        config: a preset or a YAML file; None: that of the run in `directory`, or of the run that `branch` leaves.
        directory: the run's, which may hold one already.
        data: images to learn; None: those of the configuration, or of the run in `directory`.
        source: a prior's name; or a run, whose generator feeds this one; or images.
        kimg: length in thousand images; "+N": so much beyond the checkpoint that the run goes on from.
        seed, mirror: the keys `seed` and `data.mirror`.
        overrides: `key=value`, after all of these, so that they win.
        branch: the checkpoint to begin with.

    Raises:
        SpiderUsageError: in one line, the key, the value found and what would be valid.
    """
    stored = directory.config() if directory.exists else None
    overrides = [*_flags(data, source, seed, mirror, stored if directory.checkpoint_names() else None), *overrides]
    if config is not None:
        composed = load_config(str(config), overrides)
    else:
        origin = stored or (branch.directory.config() if branch is not None else None)
        if origin is None:
            raise SpiderUsageError(
                f"{directory.path} holds no run to go on with: say what to train, a file or a preset "
                f"({', '.join(preset_names())})"
            )
        composed = make_config(origin.model_dump(mode="json"), overrides, "overrides")
    more = []
    if kimg is not None:
        more.append(f"kimg={length(str(kimg), composed, directory, branch)}")
    if not composed.data.path:
        if stored is None:
            raise SpiderUsageError("data.path: no images to learn; give --data SHARDS or FOLDER")
        more.append(_override("data.path", stored.data.path))
    composed = make_config(composed.model_dump(mode="json"), more, "--kimg") if more else composed
    if branch is not None and not directory.checkpoint_names() and images_of(branch.checkpoint) >= composed.kimg * 1000:
        raise SpiderUsageError(f"kimg={composed.kimg:g}: {branch} is as far already; --kimg +N goes N beyond it")
    return composed


def inputs_before(directory: RunDirectory, branch: RunRef | None) -> Inputs:
    """What a training that goes on must read: that of the run in `directory`, or of the one that it branches from.

    A start that failed before its first checkpoint leaves nothing to agree with.
    """
    if directory.checkpoint_names():
        return recorded(directory)
    return {} if branch is None else recorded(branch.directory)


def require_inputs(config: Config, known: Inputs = MappingProxyType({})) -> None:
    """Refuse what `config` names and is not there, by its key, before anything heavy is loaded.

    Args:
        known: see `inputs_before`.

    Raises:
        SpiderUsageError, ShardsUsageError: no such images, run or file.
        SpiderError: evaluations need weights that the cache does not have.
    """
    for key, place in named_images(config).items():
        with at_key(key):
            require_found(key, place, known.get(key))
    if config.source.kind == "generator":
        with at_key("source.run"):
            require_source_run(config.source.run)
    settings = config.evaluate
    if settings.every_kimg is None:
        return
    if settings.weights is not None:
        if not Path(settings.weights).is_file():
            raise SpiderUsageError(f"evaluate.weights: {no_such(settings.weights, 'file')}")
    elif settings.embedding == "inception":
        with at_key("evaluate.embedding=inception"):
            weights.verify("inception", otherwise=_OTHER_WEIGHTS)


def _flags(
    data: str | Path | None, source: str | Path | None, seed: int | None, mirror: bool, stored: Config | None
) -> list[str]:
    flags = [] if data is None else [_override("data.path", absolute(data))]
    flags += [] if source is None else _source_flags(str(source), stored)
    flags += [] if seed is None else [f"seed={seed}"]
    return [*flags, *(["data.mirror=true"] if mirror else [])]


def _source_flags(source: str, stored: Config | None) -> list[str]:
    """Settings of the same kind of source in a preset stay; another kind brings its own.

    Args:
        stored: of the run that goes on, if one does.
    """
    if source in PRIORS:
        return [f"source.kind={source}"]
    if is_run(source) or ("@" in source and not Path(source).exists()):
        before = stored.source.run if stored is not None and stored.source.kind == "generator" else None
        ref = resolve(source) if before is None else moved_run(before, source)
        return ["source.kind=generator", _override("source.run", name_for_good(ref))]
    return ["source.kind=images", _override("source.path", absolute(source))]


def _override(key: str, value: str) -> str:
    """`key="value"`: quoted as YAML reads it, so that no path turns into a number or a list."""
    return f"{key}={json.dumps(value)}"
