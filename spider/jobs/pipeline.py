"""The jobs of a pipeline's stages, behind each other. Needs no torch.

    RUN/stages/NAME/...     a stage's job: cluster/jobs/slurm_job.py

The same command submits again what has not finished: a stage that has, by the same words, and comes after none that is
submitted again, is left out.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.submission import Submission, cancel
from cluster.lock import in_turn_or_gone
from spider.errors import SpiderUsageError
from spider.jobs.inputs import require_there
from spider.jobs.of_folder import STAGES
from spider.jobs.stages import Stage
from spider.jobs.submit import submit_command

_SUBMITTING_S = 600.0  # a long pipeline, a slow sbatch


@dataclass(frozen=True)
class Submitted:
    """What became of a stage.

    Attributes:
        name: its name.
        job: its number; None: it has finished before, or is yet to be submitted.
        is_new: whether it was submitted now, or is to be.
        seen_from: where alone it shows whether the job still waits or runs; None: it does.
    """

    name: str
    job: str | None
    is_new: bool
    seen_from: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has finished before."""
        return self.job is None and not self.is_new


def foresee(stages: list[Stage], *, again: bool = False) -> list[Submitted]:
    """What `submit_pipeline` would do with each stage; one that is to be submitted has no job yet. Writes nothing.

    Needs no Slurm: where it does not show whether a job waits or runs, that is what is said of the stage.

    Raises:
        SpiderUsageError: what a stage would read is not there, and no stage makes it; or a job in the queue would not
            fit the file any more.
        ClusterUsageError: what a stage asks of Slurm cannot be.
        SpiderError, ShardsError, ClusterError: what a stage would read is damaged.
    """
    return _foreseen(stages, again=again, submitting=False)


def submit_pipeline(stages: list[Stage], *, again: bool = False) -> list[Submitted]:
    """Put all that has not finished into the queue, each stage behind those that it waits for.

    With `again`, also what has: whoever asks knows that its work is not there.

    Of several who submit the same pipeline at once, one does; the others then find its jobs.

    Raises as `foresee` does; ClusterError if one is refused: those that were submitted before it are taken back.
    """
    noted = _noted(stages)
    foreseen = _foreseen(stages, again=again, submitting=True)
    run = _pipeline(stages)
    folder, is_new = run / STAGES, not run.exists()
    try:
        with in_turn_or_gone(folder, _SUBMITTING_S, ClusterError, lambda: any(folder.glob("*/*"))):
            if _noted(stages) != noted:  # others were faster
                foreseen = _foreseen(stages, again=again, submitting=True)
            return _submit_in_order(stages, foreseen)
    except ClusterError:
        if is_new:
            with suppress(OSError):
                run.rmdir()
        raise


def _noted(stages: list[Stage]) -> list[Submission | None]:
    """Their last jobs."""
    return [Submission.read(stage.folder) for stage in stages]


def _pipeline(stages: list[Stage]) -> Path:
    """Their folder."""
    return stages[0].folder.parent.parent


def _submit_in_order(stages: list[Stage], foreseen: list[Submitted]) -> list[Submitted]:
    found: list[Submitted] = []
    waiting: dict[str, tuple[Path, Submission]] = {}
    for stage, each in zip(stages, foreseen, strict=True):
        if each.is_new:
            behind = [waiting[name] for name in stage.after if name in waiting]
            name = f"spider-{stage.name}"
            try:
                made = submit_command(
                    stage.command, stage.place, stage.folder, name=name, behind=behind, more_code=stage.more_code
                )
            except ClusterError as error:
                new = [before for before, done in zip(stages, found, strict=False) if done.is_new]
                for before in reversed(new):
                    cancel(before.folder)
                back = f"; taken back: {', '.join(before.name for before in new)}" if new else ""
                raise type(error)(f"stage {stage.name}: {error}{back}") from None
            waiting[stage.name] = (stage.folder, made)
            found.append(replace(each, job=made.job))
            continue
        if each.job is not None:
            alive = Submission.read(stage.folder)
            assert alive is not None
            waiting[stage.name] = (stage.folder, alive)
        found.append(each)
    return found


def _foreseen(stages: list[Stage], *, again: bool, submitting: bool) -> list[Submitted]:
    """See `foresee`. Who submits takes a job of which nothing shows for one that waits or runs."""
    for stage in stages:
        if not stage.place.local:
            stage.script()  # refuses now what could not be submitted
    found = _fates(stages, again=again, submitting=submitting)
    todo = [stage for stage, each in zip(stages, found, strict=True) if each.is_new]
    require_there(stages, todo, _pipeline(stages))
    return found


def _fates(stages: list[Stage], *, again: bool, submitting: bool) -> list[Submitted]:
    """Refuses what would leave a job in the queue that does not fit the file any more."""
    found: dict[str, Submitted] = {}
    for stage in stages:
        before = [found[name] for name in stage.after if name in found]
        anew = [each.name for each in before if each.is_new]
        alive = stage.is_alive()
        if alive is False:
            is_done = not again and stage.has_finished() and all(each.is_done for each in before)
            found[stage.name] = Submitted(stage.name, None, is_new=not is_done)
            continue
        submission = Submission.read(stage.folder)
        assert submission is not None
        kept = Submitted(stage.name, submission.job, is_new=False, seen_from=None if alive else submission.seen_from)
        found[stage.name] = kept
        if alive is None and not submitting:
            continue
        if submission.command != list(stage.command.command):
            raise SpiderUsageError(f"stage {stage.name}: its job {submission.job} has other words; cancel it first")
        if anew:
            raise SpiderUsageError(
                f"stage {stage.name}: its job {submission.job} would not wait for {anew[0]}, which is to be done "
                "again; cancel it first"
            )
    return list(found.values())
