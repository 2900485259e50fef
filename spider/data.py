"""Images by whatever name a user gives them: packed shards as they are, anything else packed once and kept.

A run's configuration keeps the name that the user gave. So a run outlives the packed copy: it is made again when it is
gone, and compared by content.

    CACHE/packed/<key>/<name>/        index.json, shards, contact sheet (see shards.pack)

`key` stands for the place, its content as far as that shows without reading it, and the options: what changes any of
them is packed anew. A pack that was stopped goes on where it was. Of several processes that want the same copy, one
packs and the others wait for it. To choose a crop, a subset or the place, use `spider pack` first.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shards.errors import ShardsBusyError, ShardsError, ShardsUsageError
from shards.index import INDEX_NAME
from shards.missing import no_such
from shards.series import JOURNAL_NAME, is_held
from spider.config.schema import Config
from spider.files import cache_directory

if TYPE_CHECKING:
    from cluster.world import World
    from shards.dataset import ShardDataset

Channels = Literal[1, 3]

_WAIT_S = 0.5


def open_images(
    path: str | Path,
    *,
    resolution: int | None = None,
    channels: Channels | None = None,
    world: World | None = None,
    progress: bool = False,
) -> ShardDataset:
    """The dataset of packed shards (a folder or a URL), or of a folder, tar, zip, builtin:NAME or torchvision:NAME.

    Args:
        resolution: side of every image, in pixels; None: as the images have it.
        channels: 1 or 3; None: as the images have them.
        world: with several ranks, which all call this, rank 0 packs and the others wait. They wait as long as a
            collective may take: a folder that takes longer is better packed beforehand.
        progress: show a bar while packing.

    Raises:
        ShardsUsageError: nothing is there, or the images differ in size and no resolution was given.
        ShardsError: it cannot be read, or too many of its files are bad.
    """
    from shards.dataset import ShardDataset

    return ShardDataset(locate_images(path, resolution=resolution, channels=channels, world=world, progress=progress))


def locate_images(
    path: str | Path,
    *,
    resolution: int | None = None,
    channels: Channels | None = None,
    world: World | None = None,
    progress: bool = False,
) -> str:
    """Where the packed shards of `open_images` lie, absolute."""
    if world is None or world.size == 1:
        return _pack_once(path, resolution, channels, progress)
    place: str | None = None
    failure: ShardsError | None = None
    if world.is_main:
        try:
            place = _pack_once(path, resolution, channels, progress)
        except ShardsError as error:
            failure = error
    told = world.broadcast_json({"place": place, "error": str(failure), "usage": isinstance(failure, ShardsUsageError)})
    if told["place"] is None:
        raise failure or (ShardsUsageError if told["usage"] else ShardsError)(told["error"])
    return str(told["place"])


def absolute(path: str | Path) -> str:
    """A file's or folder's name that holds in any folder; URLs, builtin:NAME and torchvision:NAME as they are."""
    text = str(path)
    return text if "://" in text or text.startswith(("builtin:", "torchvision:")) else os.path.abspath(text)


def require_images(path: str | Path) -> None:
    """Refuse a name under which nothing lies, before anything heavy is loaded. URLs and built-in names pass.

    Raises ShardsUsageError.
    """
    text = absolute(path)
    if text == os.path.abspath(path) and not Path(text).exists():
        raise ShardsUsageError(no_such(path, "file or folder"))


def with_images(config: Config, world: World, progress: bool = False) -> Config:
    """Pack every image set that `config` names, and return it with their absolute names. Collective.

    Raises SpiderUsageError, ShardsUsageError or ShardsError that names the key.
    """
    updates: dict[str, object] = {}
    if config.data.path:
        path = _packed("data.path", config.data.path, world, progress)
        updates["data"] = config.data.model_copy(update={"path": path})
    if config.source.kind == "images":
        path = _packed("source.path", config.source.path, world, progress)
        updates["source"] = config.source.model_copy(update={"path": path})
    if config.evaluate.reference is not None:
        path = _packed("evaluate.reference", config.evaluate.reference, world, progress)
        updates["evaluate"] = config.evaluate.model_copy(update={"reference": path})
    return config.model_copy(update=updates)


def _packed(key: str, path: str, world: World, progress: bool) -> str:
    try:
        locate_images(path, world=world, progress=progress)
    except ShardsError as error:
        raise type(error)(f"{key}: {error}") from None
    return absolute(path)


def _pack_once(path: str | Path, resolution: int | None, channels: Channels | None, progress: bool) -> str:
    from shards.pack import pack
    from shards.remote import is_remote
    from shards.sources import open_source

    text = absolute(path)
    if (is_remote(text) or (Path(text) / INDEX_NAME).is_file()) and _is_already(text, resolution, channels):
        return text
    source = open_source(text)
    about = json.dumps([source.kind, text, source.stamp(), resolution, channels])
    out = cache_directory("packed") / hashlib.sha256(about.encode()).hexdigest()[:16] / source.name
    while not (out / INDEX_NAME).is_file():
        try:
            pack(text, out, resolution=resolution, channels=channels, progress=progress)
        except ShardsBusyError:
            _wait_for(out / INDEX_NAME, path, progress)
        except ShardsUsageError as error:
            if "--resolution" not in str(error):
                raise
            what = str(error).removesuffix(": say --resolution")
            raise ShardsUsageError(
                f"{path}: {what}: pack them to one size first: spider pack {path} OUT --resolution N"
            ) from None
    return str(out)


def _wait_for(index: Path, path: str | Path, progress: bool) -> None:
    """Let another process pack, until it is done or gone."""
    if progress:
        print(f"{path}: another process is packing these images; waiting for it", file=sys.stderr)
    lock = index.parent / JOURNAL_NAME / "lock"
    while not index.is_file() and is_held(lock):
        time.sleep(_WAIT_S)


def _is_already(path: str, resolution: int | None, channels: int | None) -> bool:
    """Whether packed shards have the resolution and channels that were asked for."""
    from shards.location import Location

    index = Location(path).index
    right_size = resolution is None or (index.height, index.width) == (resolution, resolution)
    return right_size and channels in (None, index.channels)
