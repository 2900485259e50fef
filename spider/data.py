"""Images by whatever name a user gives them: packed shards as they are, anything else packed once and kept.

    CACHE/packed/<key>/<name>/        index.json, shards, contact sheet (see shards.pack)

`key` stands for the place, its content as far as that shows without reading it, the options, and the rules of packing:
what changes any of them is packed anew. A pack that was stopped goes on where it was. Of several processes that need
the same images, on one machine or on many that share the cache, one packs and the others wait for it. To choose a crop,
a subset or the place, use `spider pack` first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cluster.errors import PASSING, MachineError, one_line
from cluster.lock import awaited_turn
from shards.errors import ShardsError, ShardsMachineError, ShardsUsageError
from shards.index import INDEX_NAME
from shards.missing import no_such
from spider.files import cache_directory
from spider.heartbeat import now_and_then

if TYPE_CHECKING:
    from cluster.world import World
    from shards.dataset import ShardDataset
    from shards.source import Source

T = TypeVar("T")
Channels = Literal[1, 3]

SIDE_TO_SAY = "--resolution N"  # in the refusal of images that differ in size
_AGAIN_S = 30.0  # between two words of rank 0; far less than the others have patience for one collective


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
        world: with several ranks, which all call this, rank 0 packs and the others wait, however long that takes.
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
    """Where the packed shards of `open_images` lie, absolute, so that a run finds them from any folder."""
    return str(on_main_rank(world, lambda: _pack_once(path, resolution, channels, progress)))


def on_main_rank(world: World | None, look: Callable[[], T]) -> T:
    """What `look` finds on rank 0, plain data, on all ranks. What it raises is raised on all, in the same words.

    The others wait as long as it looks: no longer than rank 0 lives, but longer than a collective may take. `look` must
    not communicate.
    """
    if world is None or world.size == 1:
        return look()
    answer: dict[str, Any] = {}
    failure: Exception | None = None
    if world.is_main:
        with _saying_that_it_lasts(world):
            try:
                answer = {"found": look()}
            except Exception as error:  # whatever it is, the others must not go on waiting
                failure = error
                answer = {"error": one_line(error), "exit_code": _exit_code(error)}
    while "lasts" in (told := world.broadcast_json(answer)):
        pass
    if "found" in told:
        found: T = told["found"]
        return found
    kinds = {kind.exit_code: kind for kind in (ShardsError, ShardsUsageError, ShardsMachineError)}
    raise failure or kinds[told["exit_code"]](told["error"])


@contextmanager
def _saying_that_it_lasts(world: World) -> Iterator[None]:
    """Broadcast now and then, in a thread, so that the patience of the ranks that wait for this one begins anew."""

    def say() -> None:
        with suppress(MachineError):  # a rank is lost, which the answer will meet too
            world.broadcast_json({"lasts": True})

    with now_and_then(say, _AGAIN_S):  # an interrupted process does not wait for other ranks
        yield


def _exit_code(error: Exception) -> int:
    passing = isinstance(error, OSError) and error.errno in PASSING
    return int(getattr(error, "exit_code", (ShardsMachineError if passing else ShardsError).exit_code))


def absolute(path: str | Path) -> str:
    """A file's or folder's name that holds in any folder; URLs, builtin:NAME and torchvision:NAME as they are.

    Raises ShardsUsageError for a name that is empty or blank, and would mean the current folder.
    """
    text = str(path)
    if not text.strip():
        raise ShardsUsageError("the name of a file or folder is empty (. is the current folder)")
    return text if "://" in text or text.startswith(("builtin:", "torchvision:")) else os.path.abspath(text)


def is_there(path: str | Path) -> bool:
    """Whether something lies under a name of images. Of URLs and built-in names it is taken for granted."""
    text = absolute(path)
    return text != os.path.abspath(path) or Path(text).exists()


def fingerprint_of(place: str | Path) -> str:
    """Of the images packed in a folder or under a URL. Raises ShardsError."""
    from shards.location import Location

    return Location(place).index.fingerprint


def holds(place: str | Path, fingerprint: str) -> bool:
    """Whether the packed images of that fingerprint are in a folder, all files of them, or under a URL."""
    try:
        return fingerprint_of(place) == fingerprint and _is_whole(place)
    except ShardsError:
        return False


def is_copy_of_now(copy: str, path: str) -> bool:
    """Whether a packed copy was made of what lies at `path` now, as far as that shows without reading the images."""
    from shards.sources import open_source

    text = absolute(path)
    return _is_packed(text) or _copy_of(open_source(text), text, None, None).parts[-2:] == Path(copy).parts[-2:]


def require_images(path: str | Path) -> None:
    """Refuse a name under which nothing lies, before anything heavy is loaded. URLs and built-in names pass.

    Raises ShardsUsageError.
    """
    if not is_there(path):
        raise ShardsUsageError(no_such(path, "file or folder"))


def _pack_once(path: str | Path, resolution: int | None, channels: Channels | None, progress: bool) -> str:
    from shards.sources import open_source

    text = absolute(path)
    if _is_packed(text) and _is_already(text, resolution, channels):
        return text
    source = open_source(text)
    out = _copy_of(source, text, resolution, channels)
    if not _is_whole(out):
        with awaited_turn(out.parent, f"{path}: is being packed") as alone:
            if not _is_whole(out):
                if (out / INDEX_NAME).is_file():  # what a cleaner of old files has left
                    shutil.rmtree(out)
                try:
                    _pack(text, out, resolution, channels, progress, alone=alone)
                except ShardsUsageError as error:
                    if "--resolution" not in str(error):
                        raise
                    what = str(error).removesuffix(": say --resolution")
                    raise ShardsUsageError(
                        f"{path}: {what}: pack them to one size first: spider pack {path} OUT {SIDE_TO_SAY}"
                    ) from None
    return str(out)


def _copy_of(source: Source, path: str, resolution: int | None, channels: Channels | None) -> Path:
    """Where the packed copy of a source lies, or will."""
    from shards.images import RULES

    about = json.dumps([source.kind, path, source.stamp(), resolution, channels, RULES])
    return cache_directory("packed") / hashlib.sha256(about.encode()).hexdigest()[:16] / source.name


def _pack(
    text: str, out: Path, resolution: int | None, channels: Channels | None, progress: bool, *, alone: bool
) -> None:
    """Pack into `out`. Where others cannot be kept out, beside it: the first that is done gives its copy to all."""
    from shards.pack import pack

    where = out if alone else out.parent / f".{uuid.uuid4().hex[:8]}" / out.name
    pack(text, where, resolution=resolution, channels=channels, progress=progress)
    if alone:
        return
    try:
        where.rename(out)
    except OSError:
        if not (out / INDEX_NAME).is_file():
            raise
    finally:
        shutil.rmtree(where.parent, ignore_errors=True)


def _is_packed(path: str) -> bool:
    from shards.remote import is_remote

    return is_remote(path) or (Path(path) / INDEX_NAME).is_file()


def _is_whole(copy: str | Path) -> bool:
    """Whether all files of packed images are there. Of a URL it is taken for granted."""
    from shards.location import Location
    from shards.remote import is_remote

    if is_remote(copy):
        return True
    try:
        location = Location(copy)
    except ShardsError:
        return False
    expected = {name: size for shard in location.index.shards for name, size in
                ((shard.name, shard.bytes), (shard.offsets_name, None))}  # fmt: skip
    found = location.sizes(list(expected))
    return all(name in found and size in (None, found[name]) for name, size in expected.items())


def _is_already(path: str, resolution: int | None, channels: int | None) -> bool:
    """Whether packed shards have the resolution and channels that were asked for."""
    from shards.location import Location

    index = Location(path).index
    right_size = resolution is None or (index.height, index.width) == (resolution, resolution)
    return right_size and channels in (None, index.channels)
