"""The jobs of a pipeline's stages, behind each other. Needs no torch.

    RUN/stages/NAME/...     a stage's job: cluster/jobs/slurm_job.py

The same command submits again what has not finished: a stage that has, by the same words, and comes after none that is
submitted again, is left out.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.submission import Submission, cancel
from cluster.lock import in_turn_or_gone
from spider.errors import SpiderUsageError
from spider.jobs.stages import Stage
from spider.jobs.submit import submit_command

_SUBMITTING_S = 600.0  # a long pipeline, a slow sbatch


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


def submit_pipeline(stages: list[Stage], *, again: bool = False) -> list[Submitted]:
    """Put all that has not finished into the queue, each stage behind those that it waits for.

    With `again`, also what has: whoever asks knows that its work is not there.

    Of several who submit the same pipeline at once, one does; the others then find its jobs.

    Raises ClusterError if one is refused; those that were submitted before it are taken back.
    """
    for stage in stages:
        if not stage.place.local:
            stage.script()  # refuses now what could not be submitted
    folder = stages[0].folder.parent
    is_new = not folder.parent.exists()
    try:
        with in_turn_or_gone(folder, _SUBMITTING_S, ClusterError, lambda: any(folder.glob("*/*"))):
            _require_no_change_of_what_runs(stages, again=again)
            return _submit_in_order(stages, again=again)
    except ClusterError:
        if is_new:
            with suppress(OSError):
                folder.parent.rmdir()
        raise


def _submit_in_order(stages: list[Stage], *, again: bool) -> list[Submitted]:
    found: dict[str, Submitted] = {}
    waiting: dict[str, tuple[Path, Submission]] = {}
    for stage in stages:
        behind = [waiting[name] for name in stage.after if name in waiting]
        if stage.is_alive():
            alive = Submission.read(stage.folder)
            assert alive is not None
            waiting[stage.name] = (stage.folder, alive)
            found[stage.name] = Submitted(stage.name, alive.job, is_new=False)
        elif stage.has_finished() and not behind and not again:
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


def _require_no_change_of_what_runs(stages: list[Stage], *, again: bool) -> None:
    """Refuse what would leave a job in the queue that does not fit the file any more."""
    anew: set[str] = set()
    for stage in stages:
        behind = [name for name in stage.after if name in anew]
        if not stage.is_alive():
            if behind or again or not stage.has_finished():
                anew.add(stage.name)
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
