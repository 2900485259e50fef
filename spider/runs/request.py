"""What a training is asked for. Needs no torch, and loads no configuration until one is composed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from spider.request import Request

if TYPE_CHECKING:
    from cluster.world import World
    from spider.config.schema import Config
    from spider.runs.directory import RunDirectory, RunRef
    from spider.runs.inputs import Inputs


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
        init: a run or an import to begin with the weights of. The networks are built as there, and fed as there where
            that is a prior; how they train stays as the configuration says. Or a .safetensors file, for networks as the
            configuration has them.
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
    init: str | Path | None = None
    progress: bool = False
    world: World | None = None

    @property
    def trained(self) -> Path | None:
        """See the base class."""
        return Path(self.run).absolute()

    @property
    def directory(self) -> RunDirectory:
        """The run's."""
        from spider.runs.directory import RunDirectory

        return RunDirectory(Path(self.run))

    @cached_property
    def branch(self) -> RunRef | None:
        """The checkpoint to begin with. Raises SpiderError if there is none."""
        from spider.runs.directory import resolve

        return None if self.from_run is None else resolve(self.from_run)

    @cached_property
    def inputs(self) -> Inputs:
        """What a training that goes on must read, see `inputs_before`."""
        from spider.runs.compose import inputs_before

        return inputs_before(self.directory, None if self.branch is None else self.branch.directory)

    def compose(self) -> Config:
        """The configuration. Raises SpiderUsageError: the key, the value found and what would be valid."""
        from spider.runs.compose import compose

        return compose(self)

    def foreseen(self, trained: Collection[Path] = ()) -> Config:
        """As `compose`, before the runs in `trained` have been made; none is read."""
        from spider.runs.compose import foreseen

        return foreseen(self, trained)

    def checked(self) -> Config:
        """As `compose`; refuses also other keys than those of the run that goes on, and what is named and not there."""
        from spider.runs.compose import checked

        return checked(self)

    def require_valid(self, ranks: int, trained: Collection[Path] = ()) -> None:
        """Refuse keys that cannot be, or not on so many ranks; what they name need not be there yet."""
        from spider.runs.compose import require_valid

        require_valid(self, ranks, trained)

    def packages(self, trained: Collection[Path] = ()) -> tuple[str, ...]:
        """See the base class."""
        from spider.runs.compose import packages

        return packages(self, trained)
