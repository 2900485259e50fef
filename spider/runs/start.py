"""Before the first step: what the command line adds to a configuration, what a run in the directory already says."""

from __future__ import annotations

from typing import Any

from spider.config.load import differences, with_values
from spider.config.schema import Config
from spider.data import open_images
from spider.errors import SpiderUsageError
from spider.runs.directory import RunDirectory
from spider.runs.given import require_same_stem, side_of_given
from spider.settings.auto import OfImages, filled, left_open


def prepare(config: Config, directory: RunDirectory) -> Config:
    """The configuration that will run: open values filled in, and in agreement with the run that `directory` holds.

    Raises SpiderUsageError that lists every key whose value differs from the run's and may not. That images are the
    same ones, `spider.runs.inputs.find_inputs` sees to.
    """
    # A start that failed before its first checkpoint leaves nothing to agree with
    stored = directory.config() if directory.checkpoint_names() else None
    config = _filled(config, stored)
    if stored is None:
        config.generator.require_beginning(f"init.kind={config.init.kind}", lambda: side_of_given(config))
        require_same_stem(config)
        shape = open_images(config.data.path).index.shape
        for network in (config.generator, config.discriminator):
            network.require_images(shape)
    changed = [] if stored is None else differences(stored, config)
    if changed:
        listed = "; ".join(f"{key}: the run has {old!r}, now {new!r}" for key, old, new in changed)
        raise SpiderUsageError(
            f"{directory.path} holds a run with another configuration ({listed}); use another --run, "
            f"with --from {directory.path}@last to branch"
        )
    return config


def _filled(config: Config, stored: Config | None) -> Config:
    """What follows from the data or the run gets its value now. Schedules keep it when the run is made longer."""
    if any(left_open(config)):
        index = open_images(config.data.path).index
        config = with_values(config, filled(config, OfImages(max(index.height, index.width), index.count)))
    selection = config.selection
    updates: dict[str, Any] = {}
    if selection.kind == "linear" and selection.over_kimg is None:
        updates["over_kimg"] = stored.selection.over_kimg if stored else config.kimg
    if selection.kind == "exponential" and selection.every_kimg is None:
        updates["every_kimg"] = stored.selection.every_kimg if stored else len(open_images(config.data.path)) / 1000
    if not updates:
        return config
    return config.model_copy(update={"selection": selection.model_copy(update=updates)})
