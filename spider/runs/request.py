"""From the words of `spider train` to the configuration that will run. Needs no torch: mistakes show at once."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from shards.index import INDEX_NAME
from spider import weights
from spider.config.explain import as_yaml
from spider.config.load import differences, load_config, make_config, parse_override, preset_names
from spider.config.options import how_to_give
from spider.config.refusal import Override
from spider.config.schema import Config
from spider.data import absolute
from spider.errors import SpiderUsageError
from spider.gan.sources.config import FROM_IMAGES, FROM_RUN, PRIORS
from spider.request import Request
from spider.runs.directory import RunDirectory, RunRef, images_of, is_run, resolve, split_name
from spider.runs.inputs import (
    Inputs,
    at_key,
    moved_run,
    name_for_good,
    recorded,
    require_found,
    with_absolute_names,
)
from spider.settings.choices import is_outside, outside_packages
from spider.settings.marks import named

if TYPE_CHECKING:
    from cluster.world import World

_FILLED = ("selection.over_kimg", "selection.every_kimg")  # by the start of a run, where nobody says them
_OTHER_WEIGHTS = "or name a file: evaluate.weights=FILE; evaluate.embedding=offline needs none"


@dataclass(frozen=True)
class TrainRequest(Request):
    """What a training is asked for, in whatever way: `spider.api.train`, a dry run, a job, a stage, a trial.

    Attributes:
        config: a preset or a YAML file; None: that of the run in `run`, or of the one that `from_run` names.
        run: the run's folder, which may hold one already.
        data: images to learn; None: those of the configuration, or of the run in `run`.
        source: a prior's name, or module:Class of your own; or a run, whose generator feeds this one; or images.
        kimg: length in thousand images; "+N": so much beyond the checkpoint that the run goes on from.
        seed, mirror: the keys `seed` and `data.mirror`.
        overrides: `key=value`, after all of these, so that they win.
        from_run: RUN@KIMG to begin with, clock and all, while `run` has no checkpoint of its own.
        progress: show a bar.
        world: the ranks, which all ask; None: those that torchrun describes, or this process alone.
    """

    command: ClassVar[tuple[str, ...]] = ("train",)
    alone: ClassVar[tuple[str, ...]] = ("config", "overrides")
    options: ClassVar[Mapping[str, str]] = {"from_run": "--from"}
    may_be_none: ClassVar[tuple[str, ...]] = ("config",)

    config: str | Path | None
    run: str | Path
    _: KW_ONLY
    data: str | Path | None = None
    source: str | Path | None = None
    kimg: float | str | None = None
    seed: int | None = None
    mirror: bool = False
    overrides: Sequence[str] = ()
    from_run: str | None = None
    progress: bool = False
    world: World | None = None

    @property
    def trained(self) -> Path | None:
        """See the base class."""
        return Path(self.run).absolute()

    @property
    def directory(self) -> RunDirectory:
        """The run's."""
        return RunDirectory(Path(self.run))

    @cached_property
    def branch(self) -> RunRef | None:
        """The checkpoint to begin with. Raises SpiderError if there is none."""
        return None if self.from_run is None else resolve(self.from_run)

    @cached_property
    def inputs(self) -> Inputs:
        """What a training that goes on must read, see `inputs_before`."""
        return inputs_before(self.directory, self.branch)

    def compose(self) -> Config:
        """The configuration. Raises SpiderUsageError: the key, the value found and what would be valid."""
        directory, branch = self.directory, self.branch
        stored = directory.config() if directory.exists else None
        if stored is None and (directory.path / INDEX_NAME).exists():
            raise SpiderUsageError(f"--run {directory.path}: holds packed images; a run needs a folder of its own")
        overrides: list[str | Override] = [
            *_flags(self.data, self.source, self.seed, self.mirror, stored if directory.checkpoint_names() else None),
            *self.overrides,
        ]
        if self.config is not None:
            composed = load_config(str(self.config), overrides)
        else:
            origin = stored or (branch.directory.config() if branch is not None else None)
            if origin is None:
                raise SpiderUsageError(
                    f"{directory.path} holds no run to go on with: say what to train, a file or a preset "
                    f"({', '.join(preset_names())})"
                )
            composed = make_config(origin.model_dump(mode="json"), overrides, str(directory.path))
        more = []
        if self.kimg is not None:
            value = length(str(self.kimg), composed, directory, branch)
            more.append(Override("kimg", value, f"kimg={self.kimg}"))
        if not composed.data.path:
            if stored is None:
                raise SpiderUsageError(f"data.path: no images to learn; give {how_to_give('data.path')}")
            more.append(Override("data.path", stored.data.path, f"--data {stored.data.path}"))
        composed = make_config(composed.model_dump(mode="json"), more) if more else composed
        if (
            branch is not None
            and not directory.checkpoint_names()
            and images_of(branch.checkpoint) >= composed.kimg * 1000
        ):
            raise SpiderUsageError(f"kimg={composed.kimg:g}: {branch} is as far already; --kimg +N goes N beyond it")
        if branch is not None:
            _require_same_beginning(composed, branch)
        return with_absolute_names(composed)

    def checked(self) -> Config:
        """As `compose`; refuses also other keys than those of the run that goes on, and what is named and not there."""
        composed = self.compose()
        if self.directory.checkpoint_names():
            _require_same_run(self.directory, composed)
        require_inputs(composed, self.inputs)
        return composed

    def require_valid(self, ranks: int, trained: Collection[Path] = ()) -> None:
        """Refuse keys that cannot be, or not on so many ranks; what they name need not be there yet."""
        if str(self.kimg).startswith("+"):
            raise SpiderUsageError(
                f"kimg: {self.kimg}: each start of the stage's job would add it again; give the whole length"
            )
        if self.config is not None:  # that of a run that goes on is not known yet
            self._foreseen(trained).for_world(ranks)
        else:
            for each in self.overrides:
                parse_override(each)
            if self.kimg is not None:
                _thousands(str(self.kimg))

    def packages(self, trained: Collection[Path] = ()) -> tuple[str, ...]:
        """See the base class."""
        if self.config is not None:
            return outside_packages(self._foreseen(trained).model_dump())
        source = {} if self.source is None else {"source.kind": str(self.source)}
        return outside_packages([source, *({each.key: each.value} for each in map(parse_override, self.overrides))])

    def _foreseen(self, trained: Collection[Path]) -> Config:
        """The configuration before other stages have made what it names: no run is read."""
        source, runs = self.source, list[str]()
        if source is not None and _is_or_will_be_run(str(source), trained):
            kind, key = FROM_RUN
            source, runs = None, [f"source.kind={kind}", f"source.{key}={json.dumps(str(source))}"]
        return replace(self, source=source, from_run=None, overrides=[*runs, *self.overrides]).compose()


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


def _require_same_run(directory: RunDirectory, config: Config) -> None:
    """Refuse another configuration than the run's. What images and runs hold is compared where they are read."""
    changed = [
        f"{key}: {as_yaml(old)} -> {as_yaml(new)}"
        for key, old, new in differences(directory.config(), config)
        if not (key in _FILLED and new is None)
    ]
    if changed:
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
    if settings.every_kimg is not None:
        with at_key(f"evaluate.embedding={settings.embedding}"):
            weights.of_embedding(settings.embedding, settings.weights, otherwise=_OTHER_WEIGHTS)


def _is_or_will_be_run(source: str, trained: Collection[Path]) -> bool:
    folder = Path(split_name(source)[0]).absolute()
    return source not in PRIORS and (folder in trained or _names_run(source))


def _names_run(source: str) -> bool:
    return is_run(source) or ("@" in source and not Path(source).exists())


def _flags(
    data: str | Path | None, source: str | Path | None, seed: int | None, mirror: bool, stored: Config | None
) -> list[Override]:
    flags = [] if data is None else [Override("data.path", absolute(data), f"--data {data}")]
    if source is not None:
        chosen = _source_keys(str(source), stored)
        flags += [Override(f"source.{key}", value, f"--source {source}") for key, value in chosen.items()]
    flags += [] if seed is None else [Override("seed", seed, f"seed={seed}")]
    return [*flags, *([Override("data.mirror", True, "--mirror")] if mirror else [])]


def _source_keys(source: str, stored: Config | None) -> dict[str, str]:
    """Keys of `source`. Settings of the same kind of source in a preset stay; another kind brings its own.

    Args:
        stored: of the run that goes on, if one does.
    """
    if source in PRIORS or (is_outside(source) and not Path(source).exists()):
        return {"kind": source}
    if _names_run(source):
        (kind, key), before = FROM_RUN, [] if stored is None else named(stored, f"source.{FROM_RUN[1]}")
        ref = resolve(moved_run(before[0].place, source) if before else source)
        return {"kind": kind, key: name_for_good(ref)}
    kind, key = FROM_IMAGES
    return {"kind": kind, key: absolute(source)}
