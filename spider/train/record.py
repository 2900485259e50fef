"""What a run writes for people: metrics.jsonl, TensorBoard, sample grids, a progress bar.

metrics.jsonl is the source of every curve: one JSON object per row, {"images", "kimg", ...means since the row
before..., "timing": {...}}. All but `timing` is a function of the configuration alone. When a run resumes, everything
that was written after its checkpoint is taken back first, so that no curve goes back in time or shows a row twice.

Rows, grids and evaluations are due by the clock (`log.every_kimg`, `log.samples_every_kimg`, `evaluate.every_kimg`).
When a run ends and none is due, one of each is written out of turn, so that its last images are seen; a row and a grid
also when it is stopped. They are for the reader of a run that does not go on: written after the checkpoint, which knows
nothing of them, and taken back when the run is resumed. So a run that was stopped, or made longer, has the rows and
grids of a run that never was.

An evaluation that is due may be abandoned for a stop. Then the checkpoint knows that it is owed, and it is written at
its clock by whoever goes on.

samples/reals.png is a draw of training images. In the other grids every image bears its number: the one called seed 7
in 000120-kimg.png is what `spider generate RUN@120 --seeds 7` writes. With classes each has a row, and in the row of
`cat` it is what `spider generate RUN@120 --class cat --seeds 7` writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from spider.clock import crosses
from spider.pictures.grids import write_png
from spider.pictures.sample_grids import grid_of_reals, grid_of_samples
from spider.runs.curves import Curves
from spider.runs.directory import RunDirectory, checkpoint_name
from spider.runs.row_text import numbers_text, pace_texts, result_text
from spider.runs.timing import Timing
from spider.train.trainer import Trainer

_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # the speed of tqdm knows no evaluations


class Recorder:
    """Writes on the main rank; on the others it only takes part in what is collective."""

    def __init__(
        self,
        directory: RunDirectory,
        trainer: Trainer,
        total_images: int,
        progress: bool,
        take_save_timing: Callable[[], dict[str, float]],
    ) -> None:
        self.directory = directory
        self.trainer = trainer
        self.is_main = trainer.world.is_main
        self.config = trainer.config
        self._curves: Curves | None = None
        self._bar: tqdm[Any] | None = None
        self._numbers: list[str] = []  # of the last row
        self.timing = Timing(trainer.world, trainer.config, trainer.images, total_images, take_save_timing)
        self._progress = progress and self.is_main
        if not self.is_main:
            return
        self._curves = Curves(directory, trainer.images, self.config)
        self._total = total_images
        self._bar = tqdm(
            total=total_images,
            initial=trainer.images,
            unit="img",
            unit_scale=True,
            bar_format=_BAR,
            disable=None if progress else True,  # None: where stderr is no terminal, whose lines `row` writes
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._curves is not None:
            self._curves.close()

    def say(self, line: str) -> None:
        """A line for the person who watches."""
        if self._progress:
            tqdm.write(line, file=sys.stderr)

    def to_disk(self) -> None:
        """See Curves."""
        if self._curves is not None:
            self._curves.to_disk()

    def iteration(self) -> None:
        """After every iteration: the bar, warnings, and k if its trace is wanted."""
        trainer = self.trainer
        for warning in trainer.warnings:
            self.say(f"skipped a step: {warning}")
        if self._bar is not None:
            self._bar.set_postfix_str(
                ", ".join([*pace_texts(self.timing.pace(trainer.images)), *self._numbers]), refresh=False
            )
            self._bar.update(trainer.config.batch)
        traced = trainer.plan.selection.traced(trainer.step - 1)
        if self._curves and traced:
            self._curves.trace({"step": trainer.step - 1, "images": trainer.images, **traced})

    def row(self, *, due: bool = True) -> None:
        """The means since the last row."""
        row = self._write_row()
        points = {name: value for name, value in row.items() if name not in ("images", "kimg", "timing")}
        self._points(points | {f"timing/{name}": value for name, value in row["timing"].items()}, due=due)

    def samples(self, *, due: bool = True) -> None:
        """Samples of the averaged generator from fixed inputs, each beside the source image that made it."""
        if self.is_main:
            pixels = grid_of_samples(self.trainer.frozen(), self.config.log.samples)
            write_png(self.directory.samples / f"{checkpoint_name(self.trainer.images)}.png", pixels)
            self._picture("samples", pixels, due=due)

    def reals(self) -> None:
        """A grid of training images, once."""
        path = self.directory.samples / "reals.png"
        if not self.is_main or path.exists():
            return
        dataset = self.trainer.dataset
        pixels = grid_of_reals(dataset, self.trainer.conditions, self.config.seed, self.config.log.samples)
        write_png(path, pixels)
        self._picture("reals", pixels, due=True)

    def last(self) -> None:
        """The row and the grid of the last images, if they were not due; after the checkpoint (see the module)."""
        images, batch, log = self.trainer.images, self.config.batch, self.config.log
        if not crosses(images, batch, log.every_kimg):
            self.row(due=False)
        if not crosses(images, batch, log.samples_every_kimg):
            self.samples(due=False)

    def evaluation(self, rows: list[dict[str, Any]], *, drawn: bool) -> None:
        """Results of metrics, on the main rank: as a line, and as curves unless those are drawn already."""
        if not drawn:
            due = crosses(self.trainer.images, self.config.batch, self.config.evaluate.every_kimg)
            self._points({f"metrics/{row['label']}": row["value"] for row in rows}, due=due)
        self.say("  ".join([f"{self.trainer.images / 1000:g} kimg", *(result_text(row) for row in rows)]))

    def _write_row(self) -> dict[str, Any]:
        trainer = self.trainer
        means = trainer.plan.stats.means()
        row: dict[str, Any] = {"images": trainer.images, "kimg": trainer.images / 1000, **means}
        if {"logits/real", "logits/fake"} <= means.keys():
            row["score_gap"] = means["logits/real"] - means["logits/fake"]
        for method in trainer.plan.methods.values():
            row |= method.columns(trainer.images)
        row["timing"] = self.timing.take(trainer.images, trainer.feeds.waits.take())
        if self._curves is not None and self._bar is not None:
            self._curves.row(row)
            self._numbers = [numbers_text(row, self.config)]
            if self._bar.disable:
                kimg = f"{row['kimg']:g} of {self._total / 1000:g} kimg"
                self.say(", ".join([kimg, *pace_texts(row["timing"]), *self._numbers]))
        return row

    def _points(self, values: dict[str, float | None], *, due: bool) -> None:
        if self._curves is not None:
            self._curves.points(values, self.trainer.images, due=due)

    def _picture(self, name: str, pixels: npt.NDArray[np.uint8], *, due: bool) -> None:
        if self._curves is not None:
            self._curves.picture(name, pixels, self.trainer.images, due=due)
