"""Generators of finished runs, and sources. A source may be such a generator, which has a source again, and so on."""

from __future__ import annotations

import torch

from cluster.checkpoint import CheckpointStore
from cluster.world import World
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.conditions.build import restored_conditions
from spider.gan.networks.build import build_generator
from spider.gan.saved import load_saved, named_weights, saved_tensors
from spider.gan.sources.build import build_source
from spider.gan.sources.config import SourceChoice
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.source import Source
from spider.runs.directory import require_format, resolve
from spider.runs.inputs import at_key, find_source, note_places
from spider.runs.stored import fitting, require_same_weights, require_tensors


def open_source(
    config: SourceChoice,
    target_shape: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Source:
    """The source that the settings name. See `build_source`."""
    return build_source(config, target_shape, device, dtype, open_generator)


def open_generator(
    run: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    source_place: str | None = None,
    world: World | None = None,
    progress: bool = False,
) -> FrozenGenerator:
    """The averaged generator of RUN, RUN@best, RUN@last or RUN@KIMG, with its source; it computes in `dtype` or finer.

    Args:
        source_place: where the images or the run that feed it lie now; None: where the run says. The run notes it.
        world: ranks that all call this; None: this process is alone, or looks for itself.
        progress: show a bar while images are packed.

    Raises:
        SpiderUsageError: no such run, checkpoint or source; another source than the run was fed.
        SpiderError: what lies in the source's place now is not what it was; a part that names its weights has others.
        ClusterError: the checkpoint is damaged.
    """
    ref = resolve(run)
    with at_key(str(ref.directory.path)):
        config, named, inputs = find_source(ref.directory, source_place, world, progress)
    snapshot = CheckpointStore(ref.directory.checkpoints, World.single(device)).load(ref.checkpoint)
    require_format(snapshot.state, run)
    with fitting(f"checkpoint {ref.path} does not fit its run"):
        channels, height, width = map(int, snapshot.state["image_shape"])
        shape = (channels, height, width)
        weights = snapshot.tensors["generator_ema"]
        [stored] = {weight.dtype for weight in weights.values() if weight.is_floating_point()}
        conditions = restored_conditions(
            config.condition, snapshot.state.get("condition"), snapshot.tensors.get("condition", {})
        )
        fed, trained_on = (str(snapshot.state["inputs"][what]) for what in ("source", "data"))
    dtype = torch.promote_types(stored, dtype)
    source = open_source(config.source, shape, device, dtype)
    if source.identity != fed:
        raise (SpiderError if source_place is None else SpiderUsageError)(
            f"{run}: the run was fed {fed}, and its source now is {source.identity}"
        )
    module = build_generator(config.generator, source, shape, World.single(device), config.seed, conditions.shape)
    named_here = named_weights({"generator": module})
    with fitting(f"checkpoint {ref.path} does not fit its run"):
        read = snapshot.state["inputs"].get("weights", {})
        require_same_weights({part: read[part] for part in read if part in named_here}, named_here, run)
        require_tensors(weights, saved_tensors(module.to(stored)), "generator_ema")
    load_saved(module, weights)
    generator = FrozenGenerator(module, source, conditions, shape, device, training=trained_on)
    if source_place is not None and (world is None or world.is_main):
        note_places(ref.directory, named, inputs)
    module.to(dtype)  # after the digest, which is that of the weights as they were saved
    return generator
