"""From the words of `spider train` to the configuration that will run. Needs no torch: mistakes show at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from spider import weights
from spider.config.choices import is_outside
from spider.config.load import load_config, make_config, preset_names
from spider.config.marks import named
from spider.config.schema import Config
from spider.data import absolute
from spider.errors import SpiderUsageError
from spider.inputs import (
    Inputs,
    at_key,
    moved_run,
    name_for_good,
    recorded,
    require_found,
    with_absolute_names,
)
from spider.run import RunDirectory, RunRef, images_of, is_run, resolve
from spider.sources.config import FROM_IMAGES, FROM_RUN, PRIORS
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
        source: a prior's name, or module:Class of your own; or a run, whose generator feeds this one; or images.
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
    if branch is not None:
        _require_same_beginning(composed, branch)
    return with_absolute_names(composed)


def _require_same_beginning(config: Config, branch: RunRef) -> None:
    """Refuse other weights to begin with than those of the checkpoint, which `--from` goes on from."""
    theirs = branch.directory.config().init
    if config.init != theirs and (config.init.players or theirs.freeze_d):
        raise SpiderUsageError(
            f"init: --from {branch} goes on with that run, which has init.kind={theirs.kind} and init.freeze_d="
            f"{theirs.freeze_d}: give the same; or leave --from out, and begin anew with its weights: init.run={branch}"
        )


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
    for each in named(config):
        with at_key(each.key):
            require_found(each, known.get(each.key))
    settings = config.evaluate
    if settings.every_kimg is not None and settings.weights is None and settings.embedding == "inception":
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
    if source in PRIORS or (is_outside(source) and not Path(source).exists()):
        return [_override("source.kind", source)]
    if is_run(source) or ("@" in source and not Path(source).exists()):
        (kind, key), before = FROM_RUN, [] if stored is None else named(stored, f"source.{FROM_RUN[1]}")
        ref = resolve(moved_run(before[0].place, source) if before else source)
        return [f"source.kind={kind}", _override(f"source.{key}", name_for_good(ref))]
    kind, key = FROM_IMAGES
    return [f"source.kind={kind}", _override(f"source.{key}", absolute(source))]


def _override(key: str, value: str) -> str:
    """`key="value"`: quoted as YAML reads it, so that no path turns into a number or a list."""
    return f"{key}={json.dumps(value)}"
