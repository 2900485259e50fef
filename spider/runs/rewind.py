"""What was written after a checkpoint is taken back before a run goes on from it.

So no curve goes back in time or shows a row twice. TensorBoard drops such points itself (`purge_step`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator

from shards.files import UNFINISHED
from spider.clock import crosses
from spider.config.schema import Config
from spider.runs.directory import RunDirectory, images_of
from spider.runs.records import is_checkpoint_name
from untrusted.rows import read_rows
from untrusted.terminal import warn

OUT_OF_TURN = ".out-of-turn"  # how the names of TensorBoard's files end whose points are taken back


def _require_clock(row: dict[str, Any]) -> dict[str, Any]:
    if type(row.get("images")) is not int:
        raise ValueError(f"images is {row.get('images')!r}, not a number of images")
    return row


# A dict, which keeps the order of the keys, so that what stays of a file keeps its bytes
_Clocked = cast("type[dict[str, Any]]", Annotated[dict[str, Any], AfterValidator(_require_clock)])


def rewind(directory: RunDirectory, images: int, config: Config) -> None:
    """Take back everything that was written after `images`, and what was written there out of turn."""

    def stays(then: int, every_kimg: float | None) -> bool:
        return then <= images and (then == 0 or crosses(then, config.batch, every_kimg))

    for events in directory.tensorboard.glob(f"*{OUT_OF_TURN}"):
        events.unlink()
    for folder in (directory.samples, directory.evaluations):
        for file in folder.glob(f".*{UNFINISHED}"):  # of a start that was killed while it wrote
            file.unlink()
    _keep_rows(directory.metrics_file, lambda then: stays(then, config.log.every_kimg))
    _keep_rows(directory.trace_file, lambda then: then <= images)
    _keep_files(directory.samples, ".png", lambda then: stays(then, config.log.samples_every_kimg))
    _keep_files(directory.evaluations, ".json", lambda then: stays(then, config.evaluate.every_kimg))


def _keep_rows(file: Path, stays: Callable[[int], bool]) -> None:
    """Leave the rows of a file of JSON lines whose `images` may stay."""
    if not file.exists():
        return
    found = read_rows(file, _Clocked)
    if found.warning is not None:
        warn(found.warning)
    kept = [json.dumps(row) for row in found.rows if stays(row["images"])]
    beside = file.with_name(f".{file.name}.tmp")
    beside.write_text("".join(f"{line}\n" for line in kept), "utf-8")
    beside.replace(file)


def _keep_files(folder: Path, suffix: str, stays: Callable[[int], bool]) -> None:
    """Leave the files called by a clock that may stay, and those that are not."""
    for file in folder.glob(f"*{suffix}"):
        name = file.name.removesuffix(suffix)
        if is_checkpoint_name(name) and not stays(images_of(name)):
            file.unlink()
