"""What a run reads from outside, by the names that the user gave and by content.

    RUN/inputs.json   {"data.path":   {"path": "/data/dogs", "fingerprint": "3fd2...", "packed": "/cache/.../dogs"},
                       "source.path": {"path": "/shards/cats", "fingerprint": "90ab...", "packed": "/shards/cats"}}

`path` is what the user named, and stands in config.yaml too. `fingerprint` is that of its images when the run began.
`packed` are the shards that were read: `path` itself, or the copy in the cache that was made of it. Whoever needs the
images again takes the copy. If that is gone, `path` is packed again. If `path` is gone too, the user says where it lies
now, and the run notes that. The images must be the same ones each time. A run that feeds another one (`source.run`) is
compared by its weights, of which checkpoints have the digest. This module needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from cluster.errors import ClusterError
from shards.errors import ShardsError, ShardsUsageError
from shards.missing import no_such
from spider.config.load import flatten, make_config
from spider.config.schema import Config
from spider.data import absolute, fingerprint_of, holds, is_copy_of_now, is_there, locate_images, on_main_rank
from spider.errors import SpiderError, SpiderUsageError
from spider.files import write_text
from spider.run import RunDirectory, RunRef, images_of, kimg_text, resolve, split_name
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.terminal import warn
from untrusted.typed import checked

if TYPE_CHECKING:
    from cluster.world import World

OPTIONS = {
    "data.path": "--data PLACE",
    "source.path": "--source PLACE",
    "evaluate.reference": "evaluate.reference=PLACE",
}


class Input(BaseModel):
    """One set of images that a run reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    fingerprint: str
    packed: str


Inputs = Mapping[str, Input]  # by the key that names them


def recorded(directory: RunDirectory) -> Inputs:
    """What the run read. Empty if it has not begun, or is of a version that did not note it.

    Raises SpiderError if inputs.json is damaged.
    """
    try:
        return checked(read_json(directory.inputs_file), dict[str, Input], str(directory.inputs_file))
    except FileNotFoundError:
        return {}
    except UnreadableError as error:
        raise SpiderError(str(error)) from None


def named_images(config: Config) -> dict[str, str]:
    """Every set of images that a configuration names and a training reads, by its key."""
    places = {"data.path": config.data.path} if config.data.path else {}
    if config.source.kind == "images":
        places["source.path"] = config.source.path
    if config.evaluate.every_kimg is not None and config.evaluate.reference is not None:
        places["evaluate.reference"] = config.evaluate.reference
    return places


def with_places(config: Config, places: Mapping[str, str]) -> Config:
    """The same configuration with other places, by their keys."""
    tree = config.model_dump(mode="json")
    for key, place in places.items():
        section, name = key.split(".")
        tree[section][name] = place
    return make_config(tree)


def find_inputs(
    config: Config, known: Inputs, world: World | None = None, progress: bool = False
) -> tuple[Config, dict[str, Input]]:
    """The images that a training will read, packed if need be. Collective.

    Args:
        known: what the run that goes on has read; empty for a new one.

    Returns:
        The configuration with the places of packed shards, which the trainer reads; and what belongs in inputs.json.

    Raises:
        SpiderUsageError, ShardsUsageError, ShardsError: the key, and what is missing or is not the same.
    """
    found = {}
    for key, place in named_images(config).items():
        with at_key(key):
            found[key] = find_images(key, place, known.get(key), world, progress)
            if world is None or world.is_main:
                _say_if_changed(key, place, found[key])
    return with_places(config, {key: each.packed for key, each in found.items()}), found


def find_images(
    key: str, place: str, known: Input | None, world: World | None = None, progress: bool = False, how: str = ""
) -> Input:
    """One set of images: the packed copy that the run has read, or `place`, packed if need be. Collective.

    Args:
        key: that names the images.
        place: where they lie, perhaps another place than the one that is known.
        known: what the run has read; None if it has read none, or has not noted it.
        how: one says where the images lie now, for errors; by default the option of `spider train`.

    Raises:
        SpiderUsageError, ShardsUsageError, ShardsError: what is missing or is not the same; `at_key` names the key.
    """
    return Input(**on_main_rank(world, lambda: _find(key, place, known, progress, how).model_dump()))


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """What is refused within is refused by the name of the key."""
    try:
        yield
    except (SpiderError, ShardsError, ClusterError) as error:
        raise type(error)(f"{key}: {error}") from None


def require_found(key: str, place: str, known: Input | None, how: str = "") -> None:
    """Refuse images of which neither `place` nor a packed copy is there. Raises ShardsUsageError."""
    if is_there(place) or (known is not None and _is_same(place, known) and holds(known.packed, known.fingerprint)):
        return
    raise ShardsUsageError(_gone(no_such(place, "file or folder"), how or OPTIONS[key]))


def find_source(
    directory: RunDirectory, place: str | None, world: World | None = None, progress: bool = False
) -> tuple[Config, Config, dict[str, Input]]:
    """What feeds a finished run, found where it lies now. Collective.

    Args:
        place: where that is; None: where the run says.

    Returns:
        The run's configuration with the places to read from; the same with the places that the user named; and what
        belongs in inputs.json. The last two are for `note_places`.

    Raises:
        SpiderUsageError, ShardsUsageError, ShardsError: the key, and what is missing or is not the same.
    """
    config = directory.config()
    source = config.source
    how = f"spider generate {directory.path} --source PLACE"
    if source.kind == "images":
        with at_key("source.path"):
            known = recorded(directory).get("source.path")
            found = find_images("source.path", place or source.path, known, world, progress, how)
        at, named = (with_places(config, {"source.path": path}) for path in (found.packed, found.path))
        return at, named, {"source.path": found}
    if source.kind == "generator":
        with at_key("source.run"):
            ref = require_source_run(source.run, how) if place is None else moved_run(source.run, place)
        if place is not None:
            config = with_places(config, {"source.run": name_for_good(ref)})
        return config, config, {}
    if place is not None:
        raise SpiderUsageError(f"--source {place}: {directory.path} is fed {source.kind} vectors, which lie nowhere")
    return config, config, {}


def moved_run(before: str, place: str) -> RunRef:
    """The run that feeds another one, at the place where it lies now.

    Where `place` names no checkpoint it is the one that `before` names: the run that feeds may have gone on since.
    """
    _, which = split_name(before)
    return resolve(place if split_name(place)[1] or not which else f"{place}@{which}")


def name_for_good(ref: RunRef) -> str:
    """RUN@KIMG from any folder, and also when the run has gone on, and its last and best are others."""
    return f"{absolute(ref.directory.path)}@{kimg_text(images_of(ref.checkpoint))}"


def require_source_run(run: str, how: str = OPTIONS["source.path"]) -> RunRef:
    """The checkpoint that feeds a run. Raises SpiderUsageError if it is not there."""
    path, _ = split_name(run)
    if not is_there(path):
        raise SpiderUsageError(_gone(no_such(path), how))
    return resolve(run)


def note_places(directory: RunDirectory, config: Config, inputs: Inputs) -> None:
    """Write down in the run where its inputs lie now, if that is news. A run that may only be read is left as it is.

    Args:
        config: the places in it are those that the user named; nothing else of it is written.
    """
    try:
        _note_places(directory, config, inputs)
    except OSError as error:
        warn(f"{directory.path}: cannot note where its inputs lie now: {error}")


def _note_places(directory: RunDirectory, config: Config, inputs: Inputs) -> None:
    written = directory.config()
    now = flatten(config)
    moved = {key: now[key] for key in (*OPTIONS, "source.run") if now.get(key) not in (None, flatten(written).get(key))}
    if moved:
        directory.write_config(with_places(written, moved))
    before = recorded(directory)
    if {**before, **inputs} != before:
        write_inputs(directory, {**before, **inputs})


def write_inputs(directory: RunDirectory, inputs: Inputs) -> None:
    """Replace inputs.json."""
    plain = {key: each.model_dump() for key, each in inputs.items()}
    write_text(directory.inputs_file, json.dumps(plain, indent=2) + "\n")


def _find(key: str, place: str, known: Input | None, progress: bool, how: str) -> Input:
    require_found(key, place, known, how)
    if known is not None and _is_same(place, known) and holds(known.packed, known.fingerprint):
        return known
    packed = locate_images(place, progress=progress)
    found = Input(path=absolute(place), fingerprint=fingerprint_of(packed), packed=packed)
    if known is not None and found.fingerprint != known.fingerprint:
        raise SpiderUsageError(
            f"the run has the images of {known.path} (fingerprint {known.fingerprint}), "
            f"now {place} holds others ({found.fingerprint}){'' if how else '; use another --run'}"
        )
    return found


def _gone(what: str, how: str) -> str:
    return f"{what}; if it has moved, say where it is now: {how}"


def _say_if_changed(key: str, place: str, found: Input) -> None:
    """Images that were added to a folder since the run began are not read, and nobody should think that they are."""
    try:
        changed = is_there(place) and not is_copy_of_now(found.packed, place)
    except ShardsError:
        return
    if changed:
        warn(
            f"{key}: {place} has changed since the run began; the run goes on with the images of then, "
            f"of which {found.packed} is the copy"
        )


def _is_same(place: str, known: Input) -> bool:
    return absolute(place) in (known.path, known.packed)
