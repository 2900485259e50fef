"""The file of a pipeline: stages that follow each other, such as pack, search, train, measure. Needs no torch.

    stages:
      digits: {verb: pack, source: "builtin:digits", out: "{run}/digits", resolution: 32}
      one:    {verb: train, config: dcgan, data: "{run}/digits", run: "{run}/one", kimg: 500, after: digits}
      score:  {verb: evaluate, subject: "{run}/one", out: "{run}/one.json", after: one}

A stage is asked for as a function of `spider.api` is: `verb` is its name, the other keys are its arguments, of the same
types, and are checked when the file is read. `{run}` is the pipeline's folder. A stage waits for those that it is
`after`, and does not begin unless they have ended well. `train` and `evaluate` run on all ranks of the request for the
cluster, everything else as one process on one node (`pack` and `verify` without GPUs); `slurm` changes keys of that
request for one stage.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cluster.errors import ClusterUsageError
from cluster.jobs.command import RankCommand
from cluster.jobs.history import History
from cluster.jobs.submission import Submission
from cluster.slurm.request import changed
from shards.errors import ShardsUsageError
from spider.config.load import read_mapping
from spider.errors import SpiderUsageError, shown
from spider.jobs.of_folder import STAGES
from spider.jobs.submit import FOLDER, Place, command_script, require_here
from spider.request import Request
from spider.runs.directory import RunDirectory
from untrusted.words import did_you_mean, not_known

_ON_ALL_RANKS = ("train", "evaluate")
_ONE_PROCESS: dict[str, object] = {"nodes": 1, "tasks_per_node": 1}
_WITHOUT_GPUS = ("pack", "verify")
_EXAMPLE = "{verb: verify, shards: data/flowers}"


def listed(value: object) -> object:
    """A text alone stands for a list of one."""
    return [value] if isinstance(value, str) else value


class StageConfig(BaseModel):
    """One stage of the file. The keys that are not here are those of the verb."""

    model_config = ConfigDict(extra="allow", frozen=True)

    verb: str
    after: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    slurm: dict[str, Any] = {}


class PipelineConfig(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: Annotated[dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], StageConfig], Field(min_length=1)]


@dataclass(frozen=True)
class Stage:
    """A stage that is ready to be submitted.

    Attributes:
        name: its key in the file.
        request: what it is asked for.
        after: the stages that must have finished before.
        place: where it runs.
        folder: of its job.
        more_code: the user's own packages and modules that any stage names: one stage reads what another has made.
    """

    name: str
    request: Request
    after: tuple[str, ...]
    place: Place
    folder: Path
    more_code: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What stands after `spider`."""
        return self.request.words()

    @property
    def command(self) -> RankCommand:
        """What its ranks run."""
        trained = self.request.trained
        run = None if trained is None else RunDirectory(trained)
        return RankCommand(
            command=(sys.executable, "-m", "spider", *self.words),
            cwd=Path.cwd(),
            saves=None if run is None else run.checkpoints,
            stacks=None if run is None else run.stacks,
        )

    def script(self) -> str:
        """What sbatch would be given, but for the numbers of the jobs that it waits for; of a local job, its command.

        Raises ClusterUsageError, naming the stage.
        """
        if self.place.local:
            return shlex.join(("spider", *self.words))
        try:
            return command_script(self.command, self.place, self.folder, name=f"spider-{self.name}")
        except ClusterUsageError as error:
            raise ClusterUsageError(f"stage {self.name}: {error}") from None

    def is_alive(self) -> bool | None:
        """Whether its job waits or runs; None if it has told of no end, and cannot be asked for from here."""
        submission = Submission.read(self.folder)
        alive = False if submission is None else submission.is_alive()
        if alive is None and (events := History(self.folder).read()) and events[-1].is_end:
            return False
        return alive

    def has_finished(self) -> bool:
        """Whether the same words have ended well."""
        submission, events = Submission.read(self.folder), History(self.folder).read()
        same = submission is not None and submission.command == list(self.command.command)
        return same and bool(events) and events[-1].event == "finished"


def is_pipeline(name: str | None) -> bool:
    """Whether a name is that of a file of stages."""
    if name is None or not Path(name).is_file():
        return False
    return "stages" in read_mapping(Path(name))


def read_pipeline(file: str | Path, run: str | Path, place: Place, verbs: Mapping[str, type[Request]]) -> list[Stage]:
    """The stages of a file, each after those that it waits for.

    Args:
        file: see the module.
        run: the pipeline's folder.
        place: where stages run that do not say otherwise.
        verbs: by name, what a stage can be asked for.

    Raises:
        SpiderUsageError, ClusterUsageError: the file, the stage, the key, the value found and what would be valid.
    """
    folder = Path(run).absolute()
    if RunDirectory(folder).exists or (folder / FOLDER).exists():
        raise SpiderUsageError(f"--run {run}: that is a run's folder; a pipeline needs one of its own")
    return make_stages(_config(file), str(file), folder, place, verbs)


def make_stages(
    config: PipelineConfig,
    file: str,
    folder: Path,
    place: Place,
    verbs: Mapping[str, type[Request]],
    called: Callable[[str], str] = "stages.{}".format,
) -> list[Stage]:
    """The stages of what a file holds, see `read_pipeline`.

    Args:
        folder: the pipeline's, absolute.
        called: by a stage's name, where in the file it stands.
    """
    for name, stage in config.stages.items():
        for before in stage.after:
            if before not in config.stages:
                raise SpiderUsageError(f"{file}: {called(name)}.after: stage {not_known(before, config.stages)}")
    try:
        names = list(TopologicalSorter({name: stage.after for name, stage in config.stages.items()}).static_order())
    except CycleError as error:
        raise SpiderUsageError(
            f"{file}: stages wait for each other: {' after '.join(reversed(error.args[1]))}"
        ) from None
    # Those that wait for nothing in particular as in the file
    places, depths = {name: number for number, name in enumerate(config.stages)}, _depths(config.stages, names)
    names.sort(key=lambda name: (depths[name], places[name]))
    stages = [_stage(name, config.stages[name], folder, place, verbs, f"{file}: {called(name)}") for name in names]
    return _checked(stages, file, called)


def _config(file: str | Path) -> PipelineConfig:
    try:
        return PipelineConfig.model_validate(read_mapping(Path(file)))
    except ValidationError as error:
        missing = f"missing; a stage has a verb and its arguments as keys, such as {_EXAMPLE}"
        raise refusal(error, str(file), PipelineConfig, missing) from None


def refusal(error: ValidationError, file: str, kind: type[BaseModel], missing: str = "missing") -> SpiderUsageError:
    """The first mistake in a file of this kind, in one line; `missing`: what is said of a key that is not there."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = f"{first['msg'][0].lower()}{first['msg'][1:]}, found {shown(first['input'])}"
    if first["type"] == "extra_forbidden":
        known = kind.model_fields
        what = f"no such key; keys: {', '.join(known)}{did_you_mean(where, known)}"
    elif first["type"] == "missing":
        what = missing
    return SpiderUsageError(f"{file}: {where}: {what}")


def _stage(
    name: str, config: StageConfig, folder: Path, place: Place, verbs: Mapping[str, type[Request]], where: str
) -> Stage:
    verb = config.verb
    if verb not in verbs:
        raise SpiderUsageError(f"{where}.verb: verb {not_known(verb, verbs)}")
    fixed = {} if verb in _ON_ALL_RANKS else _ONE_PROCESS
    fixed = {**fixed, "gpus_per_node": 0} if verb in _WITHOUT_GPUS else fixed
    own = Place(changed(place.request, {**fixed, **config.slurm}, f"{where}.slurm"), place.local)
    for key, is_one in (("nodes", own.request.nodes == 1), ("tasks_per_node", own.request.tasks == 1)):
        if verb not in _ON_ALL_RANKS and not is_one:
            raise SpiderUsageError(f"{where}.slurm: {key}={config.slurm[key]}: {verb} is one process; leave it out")
    require_here(own, f"{where}.slurm: ")
    try:
        request = verbs[verb].read(filled(config.model_extra or {}, {"run": str(folder)}))
    except SpiderUsageError as error:
        raise SpiderUsageError(f"{where}: {error}") from None
    return Stage(name=name, request=request, after=config.after, place=own, folder=folder / STAGES / name)


def _checked(stages: list[Stage], file: str, called: Callable[[str], str]) -> list[Stage]:
    """With the code that they need. What a stage names may be a run that another one makes."""
    made = [run for run in (stage.request.made_run for stage in stages) if run is not None]
    code: list[str] = []
    for stage in stages:
        try:
            stage.request.require_valid(stage.place.ranks, made)
            code += stage.request.packages(made)
        except (SpiderUsageError, ShardsUsageError) as error:
            raise SpiderUsageError(f"{file}: {called(stage.name)}: {error}") from None
    return [replace(stage, more_code=tuple(dict.fromkeys(code))) for stage in stages]


def filled(value: Any, words: Mapping[str, object]) -> Any:
    """With what `{name}` stands for in its place, in every text; a text of nothing else becomes the value itself.

    Raises SpiderUsageError: a name that stands for nothing.
    """
    if isinstance(value, dict):
        return {key: filled(each, words) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(each, words) for each in value]
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\{(\w+)\}", value):
        if name not in words:
            known = ", ".join(f"{{{each}}}" for each in words)
            raise SpiderUsageError(f"{value}: {{{name}}}: only {known} stands for something")
    whole = re.fullmatch(r"\{(\w+)\}", value)
    return words[whole[1]] if whole else re.sub(r"\{(\w+)\}", lambda found: str(words[found[1]]), value)


def _depths(stages: Mapping[str, StageConfig], in_order: Sequence[str]) -> dict[str, int]:
    """How many stages each waits for, one behind the other."""
    depths: dict[str, int] = {}
    for name in in_order:
        depths[name] = 1 + max((depths[before] for before in stages[name].after), default=-1)
    return depths
