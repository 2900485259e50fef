"""From the words of `spider train` to the configuration that will run. Needs no torch: mistakes show at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from shards.errors import ShardsError
from shards.missing import no_such
from spider import weights
from spider.config.load import load_config, make_config, preset_names
from spider.config.schema import Config
from spider.data import absolute, require_images
from spider.errors import SpiderError, SpiderUsageError
from spider.run import RunDirectory, RunRef, images_of, is_run, kimg_text, resolve
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
    overrides = [*_flags(data, source, seed, mirror), *overrides]
    stored = directory.config() if directory.exists else None
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


def require_inputs(config: Config) -> None:
    """Refuse what `config` names and is not there, by its key, before anything heavy is loaded.

    Raises:
        SpiderUsageError, ShardsUsageError: no such images, run or file.
        SpiderError: evaluations need weights that the cache does not have.
    """
    _at("data.path", require_images, config.data.path)
    if config.source.kind == "images":
        _at("source.path", require_images, config.source.path)
    if config.source.kind == "generator":
        _at("source.run", resolve, config.source.run)
    settings = config.evaluate
    if settings.every_kimg is None:
        return
    if settings.reference is not None:
        _at("evaluate.reference", require_images, settings.reference)
    if settings.weights is not None:
        if not Path(settings.weights).is_file():
            raise SpiderUsageError(f"evaluate.weights: {no_such(settings.weights, 'file')}")
    elif settings.embedding == "inception":
        _at("evaluate.embedding=inception", partial(weights.verify, otherwise=_OTHER_WEIGHTS), "inception")


def _at(key: str, check: Callable[[str], object], value: str) -> None:
    """`check(value)`, whose refusal names the key."""
    try:
        check(value)
    except (SpiderError, ShardsError) as error:
        raise type(error)(f"{key}: {error}") from None


def _flags(data: str | Path | None, source: str | Path | None, seed: int | None, mirror: bool) -> list[str]:
    flags = [] if data is None else [_override("data.path", absolute(data))]
    flags += [] if source is None else _source_flags(str(source))
    flags += [] if seed is None else [f"seed={seed}"]
    return [*flags, *(["data.mirror=true"] if mirror else [])]


def _source_flags(source: str) -> list[str]:
    """Settings of the same kind of source in a preset stay; another kind brings its own."""
    if source in PRIORS:
        return [f"source.kind={source}"]
    if is_run(source) or ("@" in source and not Path(source).exists()):
        ref = resolve(source)
        # One checkpoint for good: the run that feeds may go on, and its last and best may become others
        kimg = kimg_text(images_of(ref.checkpoint))
        return ["source.kind=generator", _override("source.run", f"{os.path.abspath(ref.directory.path)}@{kimg}")]
    return ["source.kind=images", _override("source.path", absolute(source))]


def _override(key: str, value: str) -> str:
    """`key="value"`: quoted as YAML reads it, so that no path turns into a number or a list."""
    return f"{key}={json.dumps(value)}"
