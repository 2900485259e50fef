"""How a stage ended, wherever it ran: what need not be done again, and what failed.

A training has ended well if its run says so, and a measurement if its numbers are those of the checkpoint that is
there: so runs and measures that were made elsewhere, and copied into the study's folder, count. What other stages did
is known by their note (`ended.json`), or by their job's history.
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from spider.errors import SpiderError
from spider.files import write_text
from spider.jobs.stages import Stage
from spider.judge.request import EvaluateRequest
from spider.runs.directory import images_of, resolve
from spider.runs.request import TrainRequest
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

NOTE = "ended.json"
NOT_FINITE = "not finite"  # the word of spider/train/guard.py, and a training that ends so would end so again


class Ended(TypedDict):
    """OUT/stages/NAME/ended.json.

    Keys:
        words: what stood after `spider`.
        seconds: how long it took, of all its starts.
        error: why it failed, in a line; not there if it ended well.
    """

    words: list[str]
    seconds: float
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


def write_note(stage: Stage, seconds: float, error: str | None) -> None:
    """Note how it ended."""
    before = note_of(stage)
    note: Ended = {"words": list(stage.words), "seconds": seconds + (before["seconds"] if before else 0.0)}
    if error is not None:
        note["error"] = error
    stage.folder.mkdir(parents=True, exist_ok=True)
    write_text(stage.folder / NOTE, json.dumps(note, indent=2) + "\n")


def is_done(stage: Stage) -> bool:
    """Whether nothing of it is left to do."""
    request = stage.request
    if isinstance(request, TrainRequest):
        directory = request.directory
        if not directory.success_file.exists():
            return False
        return request.kimg is None or directory.config().kimg >= float(request.kimg)  # a longer one goes on
    if isinstance(request, EvaluateRequest):
        return _is_measured(request)
    note = note_of(stage)
    return (note is not None and "error" not in note) or stage.has_finished()


def failure(stage: Stage) -> str | None:
    """Why it failed when it last ran, in a line; None: it did not, or ended well since."""
    if isinstance(stage.request, TrainRequest):
        found = stage.request.directory.failure()
        if found is not None:
            return found
    note = note_of(stage)
    return None if note is None else note.get("error")


def is_hopeless(stage: Stage) -> bool:
    """Whether it would fail again: a training whose numbers are not finite does, from the same checkpoint."""
    return not is_done(stage) and NOT_FINITE in (failure(stage) or "")


def take_same(stage: Stage, done: Sequence[Stage]) -> bool:
    """Copy a measurement if another one that is done is of the same checkpoint and asked the same; whether it was.

    The best checkpoint of a run is often its last.
    """
    request = stage.request
    if not isinstance(request, EvaluateRequest):
        return False
    for other in (each.request for each in done):
        if (
            isinstance(other, EvaluateRequest)
            and replace(other, subject=request.subject, out=request.out) == request
            and str(resolve(str(other.subject))) == str(resolve(str(request.subject)))
        ):
            source, copy = Path(str(other.out)), Path(str(request.out))
            for page in source.parent.glob(f"{glob.escape(source.stem)}-*.png"):
                shutil.copyfile(page, page.with_name(page.name.replace(source.stem, copy.stem, 1)))
            write_text(copy, source.read_text("utf-8"))
            return True
    return False


def measured_images(file: Path) -> int | None:
    """The clock of the checkpoint that a file of results is of; None: no such file, or no run was measured."""
    try:
        found = read_json(file)
    except FileNotFoundError:
        return None
    except UnreadableError as error:
        raise SpiderError(f"{error}; remove it, and it is measured again") from None
    provenance = found.get("provenance") if isinstance(found, dict) else None
    images = provenance.get("images") if isinstance(provenance, dict) else None
    return images if isinstance(images, int) else None


def _is_measured(request: EvaluateRequest) -> bool:
    assert request.out is not None
    images = measured_images(Path(request.out))
    if images is None:
        return False
    try:
        return images == images_of(resolve(str(request.subject)).checkpoint)
    except SpiderError:  # the run's checkpoints lie elsewhere: its numbers are what is left
        return True
