"""Before the first step: what the command line adds to a configuration, what a run in the directory already says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shards.errors import ShardsError
from spider.config.load import differences
from spider.config.schema import Config
from spider.data import open_images
from spider.errors import SpiderUsageError
from spider.run import RunDirectory, RunRef, images_of


def prepare(config: Config, directory: RunDirectory) -> Config:
    """The configuration that will run: open values filled in, and in agreement with the run that `directory` holds.

    Raises SpiderUsageError that lists every key whose value differs from the run's and may not. Images may lie
    elsewhere, but must be the same ones.
    """
    # A start that failed before its first checkpoint leaves nothing to agree with
    stored = directory.config() if directory.checkpoint_names() else None
    config = _filled(config, stored)
    changed = [] if stored is None else differences(stored, config)
    if changed:
        listed = "; ".join(f"{key}: the run has {old!r}, now {new!r}" for key, old, new in changed)
        raise SpiderUsageError(
            f"{directory.path} holds a run with another configuration ({listed}); use another --run, "
            f"with --from {directory.path}@last to branch"
        )
    other = [] if stored is None else list(_other_images(stored, config))
    if other:
        raise SpiderUsageError(f"{directory.path} was trained on other images ({'; '.join(other)}); use another --run")
    return config


def note_places(directory: RunDirectory, config: Config) -> None:
    """Let a run say where its images, its source and its reference lie now. Their content was compared before."""
    stored = directory.config()
    updates: dict[str, Any] = {
        "data": stored.data.model_copy(update={"path": config.data.path}),
        "evaluate": stored.evaluate.model_copy(update={"reference": config.evaluate.reference}),
    }
    for key in ("path", "run"):
        if hasattr(stored.source, key) and hasattr(config.source, key):
            updates["source"] = stored.source.model_copy(update={key: getattr(config.source, key)})
    moved = stored.model_copy(update=updates)
    if moved != stored:
        directory.write_config(moved)


def length(kimg: str | None, config: Config, directory: RunDirectory, branch: RunRef | None) -> float:
    """What `--kimg N` or `--kimg +N` means: a length, or so much beyond the checkpoint that the run goes on from."""
    if kimg is None:
        return config.kimg
    try:
        value = float(kimg)
    except ValueError:
        raise SpiderUsageError(f"--kimg {kimg}: a number of thousand images, or +N for N more") from None
    if not kimg.startswith("+"):
        return value
    names = directory.checkpoint_names() or ([branch.checkpoint] if branch else [])
    return value + (images_of(names[-1]) / 1000 if names else 0.0)


def _other_images(stored: Config, config: Config) -> Iterator[str]:
    """Each key that names other images than the run's, as far as those are still where they were.

    Where they are not, the checkpoint knows them by content: see `Trainer.load`.
    """
    paths = [("data.path", stored.data.path, config.data.path)]
    if stored.source.kind == "images" and config.source.kind == "images":
        paths.append(("source.path", stored.source.path, config.source.path))
    for key, old, new in paths:
        if old == new:
            continue
        try:
            trained_on = open_images(old).fingerprint
        except ShardsError:
            continue
        if open_images(new).fingerprint != trained_on:
            yield f"{key}: the run has {old}, now {new}"


def _filled(config: Config, stored: Config | None) -> Config:
    """Schedules whose length follows from the data or the run get it now, and keep it when the run is made longer."""
    selection = config.selection
    updates: dict[str, Any] = {}
    if selection.kind == "linear" and selection.over_kimg is None:
        updates["over_kimg"] = stored.selection.over_kimg if stored else config.kimg
    if selection.kind == "exponential" and selection.every_kimg is None:
        updates["every_kimg"] = stored.selection.every_kimg if stored else len(open_images(config.data.path)) / 1000
    if not updates:
        return config
    return config.model_copy(update={"selection": selection.model_copy(update=updates)})
