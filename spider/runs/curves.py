"""What a run writes of numbers: metrics.jsonl, TensorBoard, and the trace of k.

All is appended, so what was written after the checkpoint that a run goes on from is taken back first. What TensorBoard
gets out of turn (see `spider.train.record`) is in an event file of its own, which is removed when the run is resumed:
`purge_step` cannot take back one point of several at one clock.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shards.files import naming
from spider.config.schema import Config
from spider.files import finite
from spider.runs.directory import RunDirectory
from spider.runs.rewind import OUT_OF_TURN, rewind

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """The files, of which one process writes."""

    def __init__(self, directory: RunDirectory, images: int, config: Config) -> None:
        """Take back what was written after `images`, and go on from there."""
        self.directory = directory
        self._writer: SummaryWriter | None = None
        self._out_of_turn: SummaryWriter | None = None
        if config.log.tensorboard:
            # purge_step makes TensorBoard drop what an interrupted run wrote after the checkpoint
            self._writer = _open(directory.tensorboard, purge_step=images + 1)
        rewind(directory, images, config)

    def row(self, row: dict[str, Any], *, due: bool) -> None:
        """Append to metrics.jsonl, and draw points. `due`: by the clock."""
        _append(self.directory.metrics_file, row)
        points = {name: value for name, value in row.items() if name not in ("images", "kimg", "timing")}
        timing = {f"timing/{name}": value for name, value in row["timing"].items()}
        self.points(points | timing, row["images"], due=due)

    def trace(self, row: dict[str, Any]) -> None:
        """Append to topk_trace.jsonl."""
        _append(self.directory.trace_file, row)

    def points(self, values: dict[str, float | None], images: int, *, due: bool) -> None:
        """Points of TensorBoard's curves, by the name of the curve; None is none. `due`: by the clock."""
        if (writer := self._board(due)) is not None:
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(name, value, images)
            writer.flush()

    def picture(self, name: str, pixels: npt.NDArray[np.uint8], images: int, *, due: bool) -> None:
        """A picture for TensorBoard, [height, width, 3]. `due`: by the clock."""
        if (writer := self._board(due)) is not None:
            writer.add_image(name, pixels, images, dataformats="HWC")

    def to_disk(self) -> None:
        """All rows so far, of which a checkpoint that outlives a loss of power must not know more than the disk."""
        for file in (self.directory.metrics_file, self.directory.trace_file):
            if file.exists():
                with file.open("rb") as rows:
                    os.fsync(rows.fileno())

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        for writer in (self._writer, self._out_of_turn):
            if writer is not None:
                writer.close()

    def _board(self, due: bool) -> SummaryWriter | None:
        if self._writer is not None and not due and self._out_of_turn is None:
            self._out_of_turn = _open(self.directory.tensorboard, filename_suffix=OUT_OF_TURN)
        return self._writer if due else self._out_of_turn


def _open(folder: Path, **options: Any) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # half a second, which a dry run need not wait

    _wait_for_another_second(folder)
    return SummaryWriter(str(folder), **options)


def _wait_for_another_second(folder: Path) -> None:
    """TensorBoard reads event files by name, which begins with the second of their making, and must read these last."""
    seconds = [file.name.split(".")[3] for file in folder.glob("events.out.tfevents.*")]
    made = [int(second) for second in seconds if re.fullmatch("[0-9]{1,12}", second)]
    while made and 0 <= time.time() - max(made) < 1:
        time.sleep(0.05)


def _append(path: Path, row: dict[str, Any]) -> None:
    text = json.dumps(finite(row), allow_nan=False)
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
