"""What of a study is done, wherever it was done, and what failed.

A training is done if its run has finished at the length and with the keys that are asked for. A measurement is done if
it answers what is asked, about the weights that the run has now. So runs and measures that were made elsewhere, and
copied into the study's folder, count. Of other stages a note tells (`ended.json`), or their job's history.
"""

from __future__ import annotations

import glob
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from cluster.jobs.history import History
from spider.errors import SpiderError, SpiderUsageError
from spider.files import write_text
from spider.gan.sources.config import FROM_RUN
from spider.jobs.stages import Stage
from spider.judge.metrics.results import MetricResult, read_results
from spider.judge.request import DEFAULT_COUNT, DEFAULT_SEEDS, EvaluateRequest
from spider.runs.compose import changed_keys
from spider.runs.directory import NOT_FINITE, is_run, resolve, weights_digest
from spider.runs.request import TrainRequest
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

NOTE = "ended.json"


class Ended(TypedDict):
    """OUT/stages/NAME/ended.json.

    Keys:
        words: what stood after `spider`.
        seconds: how long it took, of all its starts with these words.
        outcome: how the last of them ended.
        error: why it failed, in a line.
    """

    words: list[str]
    seconds: float
    outcome: Literal["finished", "failed", "stopped"]
    error: NotRequired[str]


def note_of(stage: Stage) -> Ended | None:
    """What was noted of its last end; None: nothing, or of other words. Raises SpiderError for a damaged file."""
    file = stage.folder / NOTE
    try:
        found = checked(read_json(file), Ended, str(file))
    except FileNotFoundError:
        return None
    except UnreadableError as error:
        raise SpiderError(f"{error}; remove it, and the stage is done again") from None
    return found if found["words"] == list(stage.words) else None


def write_note(
    stage: Stage, seconds: float, outcome: Literal["finished", "failed", "stopped"], error: str | None = None
) -> None:
    """Note how it ended."""
    before = note_of(stage)
    note: Ended = {
        "words": list(stage.words),
        "seconds": seconds + (before["seconds"] if before else 0.0),
        "outcome": outcome,
    }
    if error is not None:
        note["error"] = error
    stage.folder.mkdir(parents=True, exist_ok=True)
    write_text(stage.folder / NOTE, json.dumps(note, indent=2) + "\n")


def is_done(stage: Stage) -> bool:
    """Whether nothing of it is left to do.

    Raises SpiderUsageError: the run has other settings than the study, or is longer.
    """
    request = stage.request
    if isinstance(request, TrainRequest):
        return _is_trained(request, stage.name)
    if isinstance(request, EvaluateRequest):
        return _is_measured(request)
    note = note_of(stage)
    return stage.has_finished() if note is None else note["outcome"] == "finished"


def left(stages: list[Stage], wanted: list[Stage]) -> list[Stage]:
    """What is to be done, in order: those of `wanted` that are not done, and what they wait for and is not.

    What nobody needs is not done: the stages before a run that was copied here, for one.
    """
    by_name = {stage.name: stage for stage in stages}
    done = {stage.name: is_done(stage) for stage in wanted}
    for run in wanted:
        if isinstance(run.request, EvaluateRequest) and not all(done.get(before, True) for before in run.after):
            done[run.name] = False  # the checkpoint will be another one
    needed: set[str] = set()

    def need(stage: Stage) -> None:
        if stage.name not in needed:
            needed.add(stage.name)
            for before in (by_name[name] for name in stage.after):
                if not (done[before.name] if before.name in done else is_done(before)):
                    need(before)

    for stage in wanted:
        if not done[stage.name]:
            need(stage)
    return [stage for stage in stages if stage.name in needed]


def failure(stage: Stage) -> str | None:
    """Why it failed when it last ran, in a line; None: it did not, or it is done since."""
    if isinstance(stage.request, TrainRequest) and (found := stage.request.directory.failure()) is not None:
        return found
    note = note_of(stage)
    return note.get("error") if note is not None and note["outcome"] == "failed" else None


def has_diverged(stage: Stage) -> bool:
    """Whether it is a training whose numbers were no longer finite, as they would be again from its checkpoint."""
    request = stage.request
    if not isinstance(request, TrainRequest) or NOT_FINITE not in (request.directory.failure() or ""):
        return False
    return bool(request.directory.checkpoint_names()) or not _changed(request)


def seconds(stage: Stage) -> float | None:
    """How long it took; None: nobody noted that."""
    note = note_of(stage)
    if note is not None:
        return note["seconds"]
    started, total = None, 0.0
    for event in History(stage.folder).read():
        if event.event == "started":
            started = event.time
        elif started is not None:
            total, started = total + (event.time - started).total_seconds(), None
    return total or None


def take_same(stage: Stage, other: Stage) -> bool:
    """Copy a measurement from another one, if that is of the same checkpoint and asked the same; whether it was.

    The best checkpoint of a run is often its last.
    """
    mine, theirs = stage.request, other.request
    if not (isinstance(mine, EvaluateRequest) and isinstance(theirs, EvaluateRequest)):
        return False
    if replace(theirs, subject=mine.subject, out=mine.out) != mine:
        return False
    try:
        if str(resolve(str(theirs.subject))) != str(resolve(str(mine.subject))):
            return False
    except SpiderError:  # its own process will tell
        return False
    source, copy = Path(str(theirs.out)), Path(str(mine.out))
    for page in source.parent.glob(f"{glob.escape(source.stem)}-memorisation-*.png"):
        shutil.copyfile(page, page.with_name(page.name.replace(source.stem, copy.stem, 1)))
    write_text(copy, source.read_text("utf-8"))
    return True


def provenance(file: Path) -> dict[str, Any]:
    """What a file of results says of its origin; empty: there is no such file. Raises SpiderError: it is damaged."""
    try:
        found = read_json(file)
    except FileNotFoundError:
        return {}
    except UnreadableError as error:
        raise SpiderError(f"{error}; remove it, and it is measured again") from None
    origin = found.get("provenance") if isinstance(found, dict) else None
    return origin if isinstance(origin, dict) else {}


def _is_trained(request: TrainRequest, name: str) -> bool:
    directory = request.directory
    if not directory.success_file.exists():
        return False
    if changed := _changed(request):
        raise SpiderUsageError(
            f"{name}: {directory.path} holds a run with another configuration ({'; '.join(changed)}); remove it, or "
            "give the variant another name"
        )
    length, asked = directory.config().kimg, request.kimg
    if asked is not None and length > float(asked):
        raise SpiderUsageError(f"{name}: {directory.path} is {length:g} kimg long, and the study asks for {asked}")
    return asked is None or length == float(asked)


def _changed(request: TrainRequest) -> list[str]:
    """Keys that the run has otherwise than asked for. A run that feeds it may lie where this one was made."""
    if not request.directory.exists:
        return []
    is_fed = request.directory.config().source.kind == FROM_RUN[0] and not is_run(str(request.source))
    asked = replace(request, source=None) if is_fed else request
    changed = changed_keys(request.directory, asked.compose())
    return [each for each in changed if not (is_fed and each.startswith("source."))]


def _is_measured(request: EvaluateRequest) -> bool:
    file = Path(str(request.out))
    if not file.exists() or not answers(request, read_results(file)):
        return False
    digest = _weights(request)
    return digest is None or provenance(file).get("weights") == digest


def can_be_checked(measurement: Stage) -> bool:
    """Whether the checkpoint is there that a measurement is about. If it is not, the numbers are what is left."""
    assert isinstance(measurement.request, EvaluateRequest)
    return _weights(measurement.request) is not None


def _weights(request: EvaluateRequest) -> str | None:
    """The digest of the checkpoint that is to be measured; None: it lies elsewhere."""
    try:
        return weights_digest(resolve(str(request.subject)))
    except SpiderError:
        return None


def answers(request: EvaluateRequest, results: list[MetricResult]) -> bool:
    """Whether results are of the metrics, the embedding, the seeds and the number of images that are asked for."""
    seeds = request.seed_list(DEFAULT_SEEDS)
    if {*request.metrics} - {each.name for each in results}:
        return False
    for each in results:
        if each.name not in request.metrics:  # such as `nearest`, which comes with a memorisation page
            continue
        samples = each.provenance.get("samples")
        count = samples.get("count") if isinstance(samples, dict) else None
        judged = each.protocol.get("classes") or []
        if request.classes and not _are_of(judged, [str(name) for name in request.classes]):
            return False
        if request.balanced and not (isinstance(samples, dict) and samples.get("classes_alike")):
            return False
        network = each.protocol.get("embedding")
        if each.protocol.get("seed") not in seeds or count not in (None, request.count or DEFAULT_COUNT):
            return False
        if request.protocol is None and network is not None and network != (request.embedding or "inception"):
            return False
    return {each.protocol.get("seed") for each in results} >= {*seeds}


def _are_of(judged: list[str], asked: list[str]) -> bool:
    """Whether numbers are of as many classes as are asked for, and of all that are asked for by name."""
    return len(judged) == len({*asked}) and all(name in judged or name.isdigit() for name in asked)
