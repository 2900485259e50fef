"""Stages that follow each other, as jobs: pack, search, train, train on what was trained, measure. Needs no torch.

    stages:
      digits: {verb: pack, source: "builtin:digits", out: "{run}/digits", resolution: 32}
      one:    {verb: train, config: dcgan, data: "{run}/digits", run: "{run}/one", kimg: 500, after: digits}
      score:  {verb: evaluate, subject: "{run}/one", out: "{run}/one.json", after: one}

A stage is asked for as a function of `spider.api` is: `verb` is its name, the other keys are its arguments, of the same
types, and are checked when the file is read. `{run}` is the pipeline's folder. A stage waits for those that it is
`after`, and does not begin unless they have ended well. `train` and `evaluate` run on all ranks of the request for the
cluster, everything else as one process on one node (`pack` and `verify` without GPUs); `slurm` changes keys of that
request for one stage.

    RUN/stages/NAME/...     a stage's job: cluster/jobs/slurm_job.py

The same command submits again what has not finished: a stage that has, by the same words, and comes after none that is
submitted again, is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cluster.errors import ClusterError, ClusterUsageError
from cluster.jobs.command import RankCommand
from cluster.jobs.history import History
from cluster.jobs.submission import Submission, cancel
from cluster.lock import in_turn
from cluster.slurm.request import changed
from shards.errors import ShardsUsageError
from spider.config.load import read_mapping
from spider.errors import SpiderError, SpiderUsageError, shown
from spider.jobs.submit import FOLDER, Place, command_script, require_here, submit_command
from spider.request import Request
from spider.runs.directory import RunDirectory
from untrusted.words import did_you_mean, not_known

STAGES = "stages"
_SUBMITTING_S = 600.0  # a long pipeline, a slow sbatch
_ON_ALL_RANKS = ("train", "evaluate")
_ONE_PROCESS: dict[str, object] = {"nodes": 1, "tasks_per_node": 1}
_WITHOUT_GPUS = ("pack", "verify")
_EXAMPLE = "{verb: verify, shards: data/flowers}"


def _list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class StageConfig(BaseModel):
    """One stage of the file. The keys that are not here are those of the verb."""

    model_config = ConfigDict(extra="allow", frozen=True)

    verb: str
    after: Annotated[tuple[str, ...], BeforeValidator(_list)] = ()
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
        """What sbatch would be given, but for the numbers of the jobs that it waits for.

        Raises ClusterUsageError, naming the stage.
        """
        try:
            return command_script(self.command, self.place, self.folder, name=f"spider-{self.name}")
        except ClusterUsageError as error:
            raise ClusterUsageError(f"stage {self.name}: {error}") from None

    def is_alive(self) -> bool:
        """Whether its job waits or runs."""
        submission = Submission.read(self.folder)
        return submission is not None and submission.is_alive() is not False

    def has_finished(self) -> bool:
        """Whether the same words have ended well."""
        submission, events = Submission.read(self.folder), History(self.folder).read()
        same = submission is not None and submission.command == list(self.command.command)
        return same and bool(events) and events[-1].event == "finished"


@dataclass(frozen=True)
class Submitted:
    """What became of a stage.

    Attributes:
        name: its name.
        job: its number; None: it has finished before.
        is_new: whether it was submitted now.
    """

    name: str
    job: str | None
    is_new: bool


class NotBegunError(SpiderError):
    """A job has no log yet.

    Attributes:
        folder: of its files.
    """

    def __init__(self, message: str, folder: Path) -> None:
        """A message for the user."""
        super().__init__(message)
        self.folder = folder


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
    config = _config(file)
    folder = Path(run).absolute()
    if RunDirectory(folder).exists or (folder / FOLDER).exists():
        raise SpiderUsageError(f"--run {run}: that is a run's folder; a pipeline needs one of its own")
    for name, stage in config.stages.items():
        for before in stage.after:
            if before not in config.stages:
                raise SpiderUsageError(f"{file}: stages.{name}.after: stage {not_known(before, config.stages)}")
    try:
        names = list(TopologicalSorter({name: stage.after for name, stage in config.stages.items()}).static_order())
    except CycleError as error:
        raise SpiderUsageError(
            f"{file}: stages wait for each other: {' after '.join(reversed(error.args[1]))}"
        ) from None
    # Those that wait for nothing in particular as in the file
    names.sort(key=lambda name: _depth(name, config.stages))
    stages = [_stage(name, config.stages[name], folder, place, verbs, f"{file}: stages.{name}") for name in names]
    return _checked(stages, str(file))


def submit_pipeline(stages: list[Stage]) -> list[Submitted]:
    """Put all that has not finished into the queue, each stage behind those that it waits for.

    Of several who submit the same pipeline at once, one does; the others then find its jobs.

    Raises ClusterError if one is refused; those that were submitted before it are taken back.
    """
    for stage in stages:
        if not stage.place.local:
            stage.script()  # refuses now what could not be submitted
    with in_turn(stages[0].folder.parent, _SUBMITTING_S):
        _require_no_change_of_what_runs(stages)
        return _submit_in_order(stages)


def _submit_in_order(stages: list[Stage]) -> list[Submitted]:
    found: dict[str, Submitted] = {}
    waiting: dict[str, tuple[Path, Submission]] = {}
    for stage in stages:
        behind = [waiting[name] for name in stage.after if name in waiting]
        if stage.is_alive():
            alive = Submission.read(stage.folder)
            assert alive is not None
            waiting[stage.name] = (stage.folder, alive)
            found[stage.name] = Submitted(stage.name, alive.job, is_new=False)
        elif stage.has_finished() and not behind:
            found[stage.name] = Submitted(stage.name, None, is_new=False)
        else:
            name = f"spider-{stage.name}"
            try:
                made = submit_command(
                    stage.command, stage.place, stage.folder, name=name, behind=behind, more_code=stage.more_code
                )
            except ClusterError as error:
                new = [each for each in stages if each.name in found and found[each.name].is_new]
                for each in reversed(new):
                    cancel(each.folder)
                back = f"; taken back: {', '.join(each.name for each in new)}" if new else ""
                raise type(error)(f"stage {stage.name}: {error}{back}") from None
            waiting[stage.name] = (stage.folder, made)
            found[stage.name] = Submitted(stage.name, made.job, is_new=True)
    return list(found.values())


def _require_no_change_of_what_runs(stages: list[Stage]) -> None:
    """Refuse what would leave a job in the queue that does not fit the file any more."""
    again: set[str] = set()
    for stage in stages:
        behind = [name for name in stage.after if name in again]
        if not stage.is_alive():
            if behind or not stage.has_finished():
                again.add(stage.name)
            continue
        submission = Submission.read(stage.folder)
        assert submission is not None
        if submission.command != list(stage.command.command):
            raise SpiderUsageError(f"stage {stage.name}: its job {submission.job} has other words; cancel it first")
        if behind:
            raise SpiderUsageError(
                f"stage {stage.name}: its job {submission.job} would not wait for {behind[0]}, which is to be done "
                "again; cancel it first"
            )


def pipelines_below(root: Path) -> list[Path]:
    """The folders of pipelines in a folder and below, by name."""
    return sorted({job.parents[2] for job in root.rglob(f"{STAGES}/*/job.json")})


def stage_folders(run: Path) -> dict[str, Path]:
    """By name, the folders of the jobs of a pipeline's stages, in the order of their submission."""
    folders = [file.parent for file in (run / STAGES).glob("*/job.json")]
    first = {folder: events[0].time for folder in folders if (events := History(folder).read())}
    return {folder.name: folder for folder in sorted(first, key=lambda folder: first[folder])}


def log_file(run: Path, rank: int) -> Path:
    """What a rank of a job prints: of a run's last one, or of the stage in a folder. Raises SpiderError without one."""
    folder = run / FOLDER if (run / FOLDER).is_dir() else run
    submission = Submission.read(folder)
    if submission is None:
        what = "no job was submitted for it (spider launch)"
        for pipeline in (run, run.parent):
            if stages := stage_folders(pipeline):
                listed = ", ".join(str(stage) for stage in stages.values())
                what = f"{'a' if pipeline == run else 'of a'} pipeline; its stages are {listed}"
                break
        raise SpiderError(f"{run}: {what}")
    log = submission.log(folder, rank)
    if not log.exists():
        ranks = submission.nodes * submission.tasks_per_node
        if rank < ranks:
            raise NotBegunError(f"{run}: job {submission.job} has no log of rank {rank}: it has not begun", folder)
        raise SpiderError(f"{run}: job {submission.job} has no log of rank {rank}: its ranks are 0 to {ranks - 1}")
    return log


def cancel_jobs(run: Path) -> list[str]:
    """End the job of a run, or all of a pipeline, the last one first. Their numbers. Raises SpiderError without any."""
    jobs, refused = [], []
    for folder in (run / FOLDER, *reversed(stage_folders(run).values())):
        try:
            job = cancel(folder)
        except ClusterError as error:  # the others are asked all the same
            refused.append(str(error))
        else:
            jobs += [] if job is None else [job]
    if refused:
        raise SpiderError("; ".join(refused))
    if not jobs:
        raise SpiderError(f"{run}: no job of it waits or runs")
    return jobs


def _config(file: str | Path) -> PipelineConfig:
    try:
        return PipelineConfig.model_validate(read_mapping(Path(file)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{first['msg'][0].lower()}{first['msg'][1:]}, found {shown(first['input'])}"
        if first["type"] == "extra_forbidden":
            known = PipelineConfig.model_fields
            what = f"no such key; keys: {', '.join(known)}{did_you_mean(where, known)}"
        elif first["type"] == "missing":
            what = f"missing; a stage has a verb and its arguments as keys, such as {_EXAMPLE}"
        raise SpiderUsageError(f"{file}: {where}: {what}") from None


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
        request = verbs[verb].read(_filled(config.model_extra or {}, folder))
    except SpiderUsageError as error:
        raise SpiderUsageError(f"{where}: {error}") from None
    return Stage(name=name, request=request, after=config.after, place=own, folder=folder / STAGES / name)


def _checked(stages: list[Stage], file: str) -> list[Stage]:
    """With the code that they need. What a stage names may be a run that another one trains."""
    trained = [run for run in (stage.request.trained for stage in stages) if run is not None]
    code: list[str] = []
    for stage in stages:
        try:
            stage.request.require_valid(stage.place.ranks, trained)
            code += stage.request.packages(trained)
        except (SpiderUsageError, ShardsUsageError) as error:
            raise SpiderUsageError(f"{file}: stages.{stage.name}: {error}") from None
    return [replace(stage, more_code=tuple(dict.fromkeys(code))) for stage in stages]


def _filled(value: Any, folder: Path) -> Any:
    """With the folder in the place of `{run}`, in every text."""
    if isinstance(value, dict):
        return {key: _filled(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, folder) for each in value]
    if not isinstance(value, str):
        return value
    found = value.replace("{run}", str(folder))
    if unknown := re.search(r"\{\w+\}", found):
        raise SpiderUsageError(f"{value}: {unknown[0]}: only {{run}} stands for something")
    return found


def _depth(name: str, stages: Mapping[str, StageConfig]) -> int:
    return 1 + max((_depth(before, stages) for before in stages[name].after), default=-1)
