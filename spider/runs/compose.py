"""From the words of `spider train` to the configuration that will run. Needs no torch: mistakes show at once."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cluster.manifest import TENSORS_SUFFIX, read_manifest
from shards.index import INDEX_NAME
from spider import weights
from spider.config.explain import as_yaml
from spider.config.load import differences, load_config, make_config, parse_override, preset_names
from spider.config.options import how_to_give
from spider.config.refusal import Override
from spider.config.schema import Config
from spider.data import absolute
from spider.errors import SpiderUsageError
from spider.gan.init.config import GROUPS, networks_of
from spider.gan.networks.config import NetworkChoice
from spider.gan.sources.config import FROM_IMAGES, FROM_RUN, PRIORS
from spider.runs.directory import RunDirectory, RunRef, images_of, is_run, names_run, no_run, resolve, split_name
from spider.runs.inputs import (
    Inputs,
    at_key,
    moved_run,
    name_for_good,
    recorded,
    require_found,
    with_absolute_names,
)
from spider.settings.auto import left_open
from spider.settings.choices import Choice, is_outside, outside_packages
from spider.settings.marks import named

if TYPE_CHECKING:
    from spider.runs.request import TrainRequest

_FILLED = ("selection.over_kimg", "selection.every_kimg")  # by the start of a run, where nobody says them
_OTHER_WEIGHTS = "or name a file: evaluate.weights=FILE; evaluate.embedding=efficientnet needs no download"


def compose(request: TrainRequest) -> Config:
    """The configuration. Raises SpiderUsageError: the key, the value found and what would be valid."""
    directory, branch = request.directory, request.branch
    stored = directory.config() if directory.exists else None
    if stored is None and (directory.path / INDEX_NAME).exists():
        raise SpiderUsageError(f"--run {directory.path}: holds packed images; a run needs a folder of its own")
    for option, each in (("--run", directory), ("--from", None if branch is None else branch.directory)):
        if each is not None and each.imported_file.exists():
            raise SpiderUsageError(
                f"{option} {each.path}: an import, with which no training goes on; begin one with its weights in "
                f"another folder: --init {each.path}"
            )
    overrides: list[str | Override] = [
        *_flags(request, stored if directory.checkpoint_names() else None),
        *request.overrides,
    ]
    origin = stored or (branch.directory.config() if branch is not None else None)
    if request.config is not None:
        composed = _named(str(request.config), overrides, request, origin)
    else:
        if origin is None:
            raise SpiderUsageError(
                f"--run {no_run(directory.path)}; to begin a run, say what to train: a preset or a file, as in spider "
                f"train dcgan --run DIR (presets: {', '.join(preset_names())})"
            )
        composed = make_config(origin.model_dump(mode="json"), overrides, str(directory.path))
    more = [] if request.init is None or request.config is None else _of_given_weights(composed, request)
    if request.kimg is not None:
        value = length(str(request.kimg), composed, directory, branch)
        more.append(Override("kimg", value, f"kimg={request.kimg}"))
    if not composed.data.path:
        if stored is None:
            raise SpiderUsageError(f"data.path: no images to learn; give {how_to_give('data.path')}")
        more.append(Override("data.path", stored.data.path, f"--data {stored.data.path}"))
    composed = make_config(composed.model_dump(mode="json"), more) if more else composed
    if branch is not None and not directory.checkpoint_names() and images_of(branch.checkpoint) >= composed.kimg * 1000:
        raise SpiderUsageError(f"kimg={composed.kimg:g}: {branch} is as far already; --kimg +N goes N beyond it")
    if branch is not None:
        _require_same_beginning(composed, branch)
    return with_absolute_names(composed)


def _named(config: str, overrides: list[str | Override], request: TrainRequest, origin: Config | None) -> Config:
    """The configuration of a preset or a file. What it refuses and the run's own would not, is told so."""
    try:
        return load_config(config, overrides)
    except SpiderUsageError as error:
        if origin is None:
            raise
        try:
            make_config(origin.model_dump(mode="json"), overrides)
        except SpiderUsageError:
            raise error from None
        option = f"--run {request.run}" if request.directory.exists else f"--from {request.from_run}"
        raise SpiderUsageError(
            f"{error}; or leave {config} out: {option} goes on with the settings of the run"
        ) from None


def checked(request: TrainRequest) -> Config:
    """As `compose`; refuses also other keys than those of the run that goes on, and what is named and not there."""
    composed = compose(request)
    if request.directory.checkpoint_names():
        _require_same_run(request.directory, composed)
    require_inputs(composed, request.inputs)
    return composed


def require_valid(request: TrainRequest, ranks: int, trained: Collection[Path] = ()) -> None:
    """Refuse keys that cannot be, or not on so many ranks; what they name need not be there yet."""
    if str(request.kimg).startswith("+"):
        raise SpiderUsageError(
            f"kimg: {request.kimg}: each start of the stage's job would add it again; give the whole length"
        )
    if request.config is not None:  # that of a run that goes on is not known yet
        foreseen(request, trained).for_world(ranks)
    else:
        for each in request.overrides:
            parse_override(each)
        if request.kimg is not None:
            _thousands(str(request.kimg))


def packages(request: TrainRequest, trained: Collection[Path] = ()) -> tuple[str, ...]:
    """The user's own top-level packages and modules that it names, see `spider.request.Request.packages`."""
    if request.config is not None:
        return outside_packages(foreseen(request, trained).model_dump())
    source = {} if request.source is None else {"source.kind": str(request.source)}
    return outside_packages([source, *({each.key: each.value} for each in map(parse_override, request.overrides))])


def foreseen(request: TrainRequest, trained: Collection[Path]) -> Config:
    """The configuration before other stages have made what it names: no run is read.

    Args:
        trained: absolute folders of the runs that other stages make.
    """
    source, init, runs = request.source, request.init, list[str]()
    if source is not None and _is_or_will_be_run(str(source), trained):
        kind, key = FROM_RUN
        source, runs = None, [f"source.kind={kind}", f"source.{key}={json.dumps(str(source))}"]
    if init is not None and not is_run(str(init)):
        if Path(split_name(str(init))[0]).absolute() in trained:  # its networks are not known yet
            init, runs = None, [*runs, "init.kind=run", f"init.run={json.dumps(str(init))}"]
        elif _is_file(str(init)):
            init, runs = None, [*runs, "init.kind=weights", f"init.file={json.dumps(str(init))}"]
        elif not names_run(str(init)):
            init = None
    return compose(replace(request, source=source, init=init, from_run=None, overrides=[*runs, *request.overrides]))


def length(kimg: str | None, config: Config, directory: RunDirectory, branch: RunRef | None) -> float:
    """What `--kimg N` or `--kimg +N` means: a length, or so much beyond the checkpoint that the run goes on from."""
    if kimg is None:
        return config.kimg
    value = _thousands(kimg)
    if not kimg.startswith("+"):
        return value
    names = directory.checkpoint_names() or ([branch.checkpoint] if branch else [])
    return value + (images_of(names[-1]) / 1000 if names else 0.0)


def _thousands(kimg: str) -> float:
    try:
        return float(kimg)
    except ValueError:
        raise SpiderUsageError(f"kimg={kimg}: a number of thousand images, or +N for N more") from None


def changed_keys(directory: RunDirectory, config: Config) -> list[str]:
    """`KEY: the run's value -> the value here`, where a configuration is another one than the run's.

    What images and runs hold is compared where they are read.
    """
    follows = dict(left_open(config))  # known when the images are read, and compared then
    return [
        f"{key}: {as_yaml(old)} -> {as_yaml(new)}"
        for key, old, new in differences(directory.config(), config)
        if not (key in _FILLED and new is None) and key not in follows
    ]


def _require_same_run(directory: RunDirectory, config: Config) -> None:
    """Refuse another configuration than the run's."""
    if changed := changed_keys(directory, config):
        raise SpiderUsageError(
            f"{directory.path} holds a run with another configuration ({'; '.join(changed)}); give the run's values, "
            f"or nothing but --run, which keeps them; or another --run, with --from {directory.path}@last to branch"
        )


def _require_same_beginning(config: Config, branch: RunRef) -> None:
    """Refuse other weights to begin with than those of the checkpoint, which `--from` goes on from."""
    theirs = branch.directory.config().init
    if config.init != theirs and (config.init.players or theirs.freeze_d):
        raise SpiderUsageError(
            f"init: --from {branch} goes on with that run, which has init.kind={theirs.kind} and init.freeze_d="
            f"{theirs.freeze_d}: give the same; or leave --from out, and begin anew with its weights: init.run={branch}"
        )


def inputs_before(directory: RunDirectory, branch: RunDirectory | None) -> Inputs:
    """What a training that goes on must read: that of the run in `directory`, or of the one that it branches from.

    A start that failed before its first checkpoint leaves nothing to agree with.
    """
    if directory.checkpoint_names():
        return recorded(directory)
    return {} if branch is None else recorded(branch)


def require_inputs(config: Config, known: Inputs = MappingProxyType({})) -> None:
    """Refuse what `config` names and is not there, by its key, before anything heavy is loaded.

    Args:
        known: see `inputs_before`.

    Raises:
        SpiderUsageError, ShardsUsageError: no such images, run or file.
        SpiderError: the discriminator or evaluations need weights that the cache does not have.
    """
    for each in named(config):
        with at_key(each.key):
            require_found(each, known.get(each.key))
    for key, reader in config.discriminator.reads.items():
        with at_key(f"discriminator.{key}"):
            weights.of_embedding(reader, otherwise="or name a file: weights: FILE")
    settings = config.evaluate
    if settings.every_kimg is not None:
        with at_key(f"evaluate.embedding={settings.embedding}"):
            weights.of_embedding(settings.embedding, settings.weights, otherwise=_OTHER_WEIGHTS)


def _is_or_will_be_run(source: str, trained: Collection[Path]) -> bool:
    folder = Path(split_name(source)[0]).absolute()
    return source not in PRIORS and (folder in trained or names_run(source))


def _flags(request: TrainRequest, stored: Config | None) -> list[Override]:
    data, source, seed = request.data, request.source, request.seed
    flags = []
    if request.init is not None and _is_file(str(request.init)):
        flags = _init_file_flags(str(request.init), stored)
    elif request.init is not None:
        said = [override.value for override in map(parse_override, request.overrides) if override.key == "init.players"]
        flags = _init_flags(str(request.init), stored, said[-1] if said else None, with_source=source is None)
    flags += [] if data is None else [Override("data.path", absolute(data), f"--data {data}")]
    if source is not None:
        chosen = _source_keys(str(source), stored)
        flags += [Override(f"source.{key}", value, f"--source {source}") for key, value in chosen.items()]
    flags += [] if seed is None else [Override("seed", seed, f"seed={seed}")]
    return [*flags, *([Override("data.mirror", True, "--mirror")] if request.mirror else [])]


def _is_file(init: str) -> bool:
    return init.endswith(TENSORS_SUFFIX) and not names_run(init)


def _init_file_flags(init: str, stored: Config | None) -> list[Override]:
    """Keys of `init` for a file of weights: of all networks that it names. Arguments as of `_init_flags`."""
    keys: dict[str, object] = {"init.kind": "weights", "init.file": absolute(init)}
    players = () if stored is None else stored.init.players
    if stored is None and Path(init).is_file():  # else the check of what is named says that it is not there
        with suppress(SafetensorError, OSError), safe_open(init, "numpy") as file:
            players = networks_of(file.keys())
    keys |= {"init.players": [*players]} if players else {}
    return [Override(key, value, f"--init {init}") for key, value in keys.items()]


def _init_flags(init: str, stored: Config | None, said: object, *, with_source: bool) -> list[Override]:
    """Keys of `init`, and of what its weights need: both networks as they were there, and a prior of that length.

    Args:
        stored: of the run that goes on, if one does: it has these networks, and the weights may be gone.
        said: the players that the user names; None: none, so all that are there.
        with_source: False: something else feeds the generator.
    """
    if stored is not None:
        theirs, place, players = stored, init, stored.init.players
    else:
        ref = resolve(init)
        theirs, place = ref.directory.config(), name_for_good(ref)
        held = read_manifest(ref.path).files
        players = tuple(player for player, group in GROUPS.items() if f"{group}{TENSORS_SUFFIX}" in held)
    keys: dict[str, object] = {"init.kind": "run", "init.run": place, "init.players": [*players]}
    taken = players if said is None else [*said] if isinstance(said, list | tuple) else [said]
    sections: dict[str, Choice] = {"generator": theirs.generator} if {"g", "g_ema"} & {*taken} else {}
    sections |= {"discriminator": theirs.discriminator} if "d" in taken else {}
    sections |= {"source": theirs.source} if with_source and theirs.source.kind in PRIORS else {}
    for name, section in sections.items():
        keys[f"{name}.kind"] = section.kind  # before the others: another choice begins with its defaults
        kept = section.left_by_init() if isinstance(section, NetworkChoice) else ()
        keys |= {f"{name}.{key}": value for key, value in section.model_dump(mode="json").items() if key not in kept}
    return [Override(key, value, f"--init {init}") for key, value in keys.items()]


def _of_given_weights(config: Config, request: TrainRequest) -> list[Override]:
    """What `--init RUN` changes in how G's average begins and in the augmentations, where no word says otherwise."""
    if config.init.kind != "run" or config.generator.grows:
        return []
    said = [override.key for override in map(parse_override, request.overrides)]
    as_what, changed = f"--init {request.init}", list[Override]()
    averaged = config.ema.rampup is not None and {"g", "g_ema"} & {*config.init.players}
    if averaged and not {"ema", "ema.rampup"} & {*said}:
        changed.append(Override("ema.rampup", None, as_what))
    augment = [each.for_given_weights() for each in config.augment]
    if augment != [*config.augment] and not any(key.split(".")[0] == "augment" for key in said):
        changed.append(Override("augment", [each.model_dump(mode="json") for each in augment], as_what))
    return changed


def _source_keys(source: str, stored: Config | None) -> dict[str, str]:
    """Keys of `source`. Settings of the same kind of source in a preset stay; another kind brings its own.

    Args:
        stored: of the run that goes on, if one does.
    """
    if source in PRIORS or (is_outside(source) and not Path(source).exists()):
        return {"kind": source}
    if names_run(source):
        (kind, key), before = FROM_RUN, [] if stored is None else named(stored, f"source.{FROM_RUN[1]}")
        ref = resolve(moved_run(before[0].place, source) if before else source)
        return {"kind": kind, key: name_for_good(ref)}
    kind, key = FROM_IMAGES
    return {"kind": kind, key: absolute(source)}
