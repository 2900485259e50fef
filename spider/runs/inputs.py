"""What a run reads from outside, by the names that the user gave and by content.

    RUN/inputs.json   {"data.path":   {"path": "/data/dogs", "fingerprint": "3fd2...", "packed": "/cache/.../dogs"},
                       "source.run":  {"path": "/runs/one@100", "fingerprint": "90ab...", "packed": "/runs/one@100"}}

The marks of the keys say what they name (`spider.settings.marks`). `path` is what the user named, and stands in
config.yaml too. `packed` is what was read: `path` itself, or the copy in the cache that was made of it. Whoever needs
images again takes the copy. If that is gone, `path` is packed again. If `path` is gone too, the user says where it lies
now, and the run notes that. `fingerprint` is of the content when the run began, which must be the same each time: of
the images, of a checkpoint's tensors as its manifest lists them, or of the bytes of a file. This module needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from cluster.errors import ClusterError
from cluster.manifest import TENSORS_SUFFIX, read_manifest
from shards.errors import ShardsError, ShardsUsageError
from shards.missing import no_such
from spider.config.load import flatten, with_values
from spider.config.options import SOURCE_KEYS, how_to_give
from spider.config.schema import Config
from spider.data import (
    SIDE_TO_SAY,
    absolute,
    fingerprint_of,
    holds,
    is_copy_of_now,
    is_there,
    locate_images,
    on_main_rank,
)
from spider.errors import SpiderError, SpiderUsageError
from spider.files import write_text
from spider.gan.init.config import RunInitConfig
from spider.gan.sources.config import PRIORS
from spider.runs.directory import RunDirectory, RunRef, images_of, kimg_text, resolve, split_name
from spider.runs.given import side_of_given
from spider.settings.marks import Named, Names, named
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.terminal import warn
from untrusted.typed import checked

if TYPE_CHECKING:
    from cluster.world import World


class Input(BaseModel):
    """One thing that a run reads."""

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


def with_absolute_names(config: Config) -> Config:
    """The same configuration, in which every name of something outside holds in any folder.

    Raises ShardsUsageError that names the key.
    """
    names = {}
    for each in named(config, unread=True):
        with at_key(each.key):
            names[each.key] = _absolute(each)
    return with_values(config, names)


def find_inputs(
    config: Config, known: Inputs, world: World | None = None, progress: bool = False
) -> tuple[Config, dict[str, Input]]:
    """All that a training will read: images packed if need be, runs at a checkpoint that stays. Collective.

    Args:
        known: what the run that goes on has read; empty for a new one.

    Returns:
        The configuration with the places that the trainer reads; and what belongs in inputs.json.

    Raises:
        SpiderUsageError, ShardsUsageError, ShardsError: the key, and what is missing or is not the same.
    """
    found = {}
    for each in named(config):
        with at_key(each.key), _naming_side(config, each.key):
            found[each.key] = _find(each, known.get(each.key), world, progress, "")
            if each.what == "images" and (world is None or world.is_main):
                _say_if_changed(each.key, each.place, found[each.key])
    return with_values(config, {key: each.packed for key, each in found.items()}), found


@contextmanager
def _naming_side(config: Config, key: str) -> Iterator[None]:
    """Images to learn that differ in size are refused with the side that the given weights are for."""
    try:
        yield
    except ShardsUsageError as error:
        other = key != "data.path" or config.generator.grows  # to images of another side
        if not isinstance(config.init, RunInitConfig) or other or SIDE_TO_SAY not in str(error):
            raise
        said = str(error).replace(SIDE_TO_SAY, f"--resolution {side_of_given(config)}")
        raise ShardsUsageError(f"{said} (images of {config.init.run} have that side)") from None


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
    return Input(**on_main_rank(world, lambda: _find_images(key, place, known, progress, how).model_dump()))


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """What is refused within is refused by the name of the key."""
    try:
        yield
    except (SpiderError, ShardsError, ClusterError) as error:
        raise type(error)(f"{key}: {error}") from None


def require_found(each: Named, known: Input | None) -> None:
    """Refuse what is not there: neither under its name nor, of images, as a packed copy.

    Raises SpiderUsageError, ShardsUsageError; `at_key` names the key.
    """
    if _needs_no_reading(each, known):
        return
    if each.what == "images":
        _require_images(each.key, each.place, known, "")
    elif each.what == "run":
        _require_run(each.key, each.place, known, "")
    elif not Path(each.place).is_file():
        raise SpiderUsageError(no_such(each.place, "file"))


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
    marked = named(config, "source.")
    if not marked and place is not None:
        kind = config.source.kind
        raise SpiderUsageError(f"--source {place}: {directory.path} is fed {kind} vectors, which lie nowhere")
    how = f"spider generate {directory.path} --source PLACE"
    inputs = {}
    for number, each in enumerate(marked):
        with at_key(each.key):
            now = each if place is None or number else _moved_to(each, place)
            inputs[each.key] = _find(now, recorded(directory).get(each.key), world, progress, how)
    at, names = ({key: getattr(found, which) for key, found in inputs.items()} for which in ("packed", "path"))
    return with_values(config, at), with_values(config, names), inputs


def moved_run(before: str, place: str) -> str:
    """A run at the place where it lies now.

    Where `place` names no checkpoint it is the one that `before` names: the run may have gone on since.
    """
    _, which = split_name(before)
    return place if split_name(place)[1] or not which else f"{place}@{which}"


def name_for_good(ref: RunRef) -> str:
    """RUN@KIMG from any folder, and also when the run has gone on, and its last and best are others."""
    return f"{absolute(ref.directory.path)}@{kimg_text(images_of(ref.checkpoint))}"


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
    before_moving = flatten(written)
    moved = {each.key: each.place for each in named(config, unread=True) if each.place != before_moving.get(each.key)}
    if moved:
        directory.write_config(with_values(written, moved))
    before = recorded(directory)
    if {**before, **inputs} != before:
        write_inputs(directory, {**before, **inputs})


def write_inputs(directory: RunDirectory, inputs: Inputs) -> None:
    """Replace inputs.json."""
    plain = {key: each.model_dump() for key, each in inputs.items()}
    write_text(directory.inputs_file, json.dumps(plain, indent=2) + "\n")


def _find(each: Named, known: Input | None, world: World | None, progress: bool, how: str) -> Input:
    """What a key names: known content that is the same, or content that becomes known. Collective."""
    if known is not None and _needs_no_reading(each, known):
        return known
    if each.what == "images":
        return find_images(each.key, each.place, known, world, progress, how)
    look = _find_run if each.what == "run" else _find_file
    return Input(**on_main_rank(world, lambda: look(each, known, how).model_dump()))


def _find_images(key: str, place: str, known: Input | None, progress: bool, how: str) -> Input:
    _require_images(key, place, known, how)
    if known is not None and _is_same(place, known) and holds(known.packed, known.fingerprint):
        return known
    packed = locate_images(place, progress=progress)
    found = Input(path=absolute(place), fingerprint=fingerprint_of(packed), packed=packed)
    if known is not None and found.fingerprint != known.fingerprint:
        raise SpiderUsageError(
            f"the run has the images of {known.path} (fingerprint {known.fingerprint[:12]}), "
            f"now {place} holds others ({found.fingerprint[:12]}){'' if how else '; use another --run'}"
        )
    return found


def _find_run(each: Named, known: Input | None, how: str) -> Input:
    """The checkpoint: RUN alone, of a run that goes on, is the one that it began with."""
    place = each.place
    if known is not None and not split_name(place)[1]:
        place = moved_run(known.path, place)
    _require_run(each.key, place, known, how)
    ref = resolve(place)
    path, files = name_for_good(ref), read_manifest(ref.path).files
    # Not of state.json: an evaluation that was owed changes it, and no weight
    listed = "\n".join(f"{name} {file.sha256}" for name, file in sorted(files.items()) if name.endswith(TENSORS_SUFFIX))
    found = Input(path=path, fingerprint=hashlib.sha256(listed.encode()).hexdigest(), packed=path)
    _require_same_content(each, known, found, how)
    return found


def run_read_now(key: str, place: str, known: Input) -> Input | None:
    """What a run that was read under a key would be read as now, if that is another checkpoint or has other weights.

    Args:
        place: where it lies.
        known: what was read.

    Returns:
        None: it is the same, or nothing that can be read lies there.
    """
    try:
        found = _find_run(Named(key, place, Names("run")), None, "")
    except (SpiderError, ClusterError):
        return None
    return None if found.fingerprint == known.fingerprint else found


def _find_file(each: Named, known: Input | None, how: str) -> Input:
    path = absolute(each.place)
    if not Path(path).is_file():
        raise SpiderUsageError(_gone(each.key, no_such(path, "file"), known, how))
    with open(path, "rb") as file:
        found = Input(path=path, fingerprint=hashlib.file_digest(file, "sha256").hexdigest(), packed=path)
    _require_same_content(each, known, found, how)
    return found


def _require_same_content(each: Named, known: Input | None, found: Input, how: str) -> None:
    if known is not None and found.fingerprint != known.fingerprint:
        raise SpiderUsageError(
            f"the run has read {known.path} (sha256 {known.fingerprint[:12]}), and {each.place} holds something else "
            f"({found.fingerprint[:12]}){'' if how else '; use another --run'}"
        )


def _require_images(key: str, place: str, known: Input | None, how: str) -> None:
    if is_there(place) or (known is not None and _is_same(place, known) and holds(known.packed, known.fingerprint)):
        return
    raise ShardsUsageError(_gone(key, _no_such_images(key, place), known, how))


def _no_such_images(key: str, place: str) -> str:
    """A source may also be one of a few words."""
    if key not in SOURCE_KEYS:
        return no_such(place, "file or folder")
    return f"{no_such(place, 'file, folder, run or prior', words=PRIORS)} (priors: {', '.join(PRIORS)})"


def _require_run(key: str, place: str, known: Input | None, how: str) -> None:
    path, _ = split_name(place)
    if not is_there(path):
        raise SpiderUsageError(_gone(key, no_such(path), known, how))
    resolve(place)


def _needs_no_reading(each: Named, known: Input | None) -> bool:
    """Whether only the start of a run reads it, and this run has started with it."""
    if not each.mark.once or known is None:
        return False
    path, _ = split_name(known.path)
    return _absolute(each) in (known.path, path, f"{path}@last", f"{path}@best")


def _moved_to(each: Named, place: str) -> Named:
    return replace(each, place=moved_run(each.place, place) if each.what == "run" else place)


def _absolute(each: Named) -> str:
    if each.what != "run":
        return absolute(each.place)
    path, which = split_name(each.place)
    return f"{absolute(path)}@{which}" if which else absolute(path)


def _gone(key: str, what: str, known: Input | None, how: str) -> str:
    """What is not there, and how one says where it is now: of a run that has read it. Of a new one nothing has moved.

    Args:
        how: by default the option of `spider train`.
    """
    if known is None and not how:
        return what
    return f"{what}; if it has moved, say where it is now: {how or how_to_give(key, 'PLACE')}"


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
