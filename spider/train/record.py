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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spider.pictures.grids import write_png
from spider.pictures.sample_grids import grid_of_reals, grid_of_samples
from spider.runs.curves import Curves
from spider.runs.directory import RunDirectory, checkpoint_name
from spider.runs.progress_bar import ProgressBar
from spider.runs.row_text import numbers_text, pace_texts, result_text, so_far_texts
from spider.runs.timing import Timing
from spider.train.trainer import Trainer


@dataclass
class Recorder:
    """Writes on the main rank; on the others it only takes part in what is collective."""

    directory: RunDirectory
    trainer: Trainer
    total_images: int
    progress: bool
    take_save_timing: Callable[[], dict[str, float]]

    def __post_init__(self) -> None:
        trainer = self.trainer
        self.config, is_main = trainer.config, trainer.world.is_main
        self.timing = Timing(trainer.world, self.config, trainer.images, self.total_images, self.take_save_timing)
        self._curves = Curves(self.directory, trainer.images, self.config) if is_main else None
        self._bar = ProgressBar(trainer.images, self.total_images, shown=self.progress and is_main)
        self._numbers: list[str] = []  # of the last row

    def close(self) -> None:
        """Let go of the bar and of TensorBoard's file."""
        self._bar.close()
        if self._curves is not None:
            self._curves.close()

    def say(self, line: str) -> None:
        """A line for the person who watches."""
        self._bar.say(line)

    def to_disk(self) -> None:
        """See Curves."""
        if self._curves is not None:
            self._curves.to_disk()

    def iteration(self) -> None:
        """After every iteration: the bar, warnings, and k if its trace is wanted."""
        trainer = self.trainer
        for warning in trainer.warnings:
            self.say(f"skipped a step: {warning}")
        if self._bar.moves:
            self._bar.update(self.config.batch, [*pace_texts(self.timing.pace(trainer.images)), *self._numbers])
        traced = trainer.plan.selection.traced(trainer.step - 1)
        if self._curves and traced:
            self._curves.trace({"step": trainer.step - 1, "images": trainer.images, **traced})

    def row(self, *, due: bool = True) -> None:
        """The means since the last row. Collective."""
        trainer = self.trainer
        means = trainer.plan.stats.means()
        row: dict[str, Any] = {"images": trainer.images, "kimg": trainer.images / 1000, **means}
        if {"logits/real", "logits/fake"} <= means.keys():
            row["score_gap"] = means["logits/real"] - means["logits/fake"]
        for method in trainer.plan.methods.values():
            row |= method.columns(trainer.images)
        row["timing"] = self.timing.take(trainer.images, trainer.feeds.waits.take())
        if self._curves is not None:
            self._curves.row(row, due=due)
            self._numbers = [*so_far_texts(row["timing"], timed=self._bar.moves), numbers_text(row, self.config)]
            if not self._bar.moves:
                kimg = f"{row['kimg']:g} of {self.total_images / 1000:g} kimg"
                self.say(", ".join([kimg, *pace_texts(row["timing"]), *self._numbers]))

    def samples(self, *, due: bool = True) -> None:
        """Samples of the averaged generator from fixed inputs, each beside the source image that made it."""
        if self._curves is not None:
            pixels = grid_of_samples(self.trainer.frozen(), self.config.log.samples)
            write_png(self.directory.samples / f"{checkpoint_name(self.trainer.images)}.png", pixels)
            self._curves.picture("samples", pixels, self.trainer.images, due=due)

    def reals(self) -> None:
        """A grid of training images, once."""
        path = self.directory.samples / "reals.png"
        if self._curves is None or path.exists():
            return
        dataset = self.trainer.dataset
        pixels = grid_of_reals(dataset, self.trainer.conditions, self.config.seed, self.config.log.samples)
        write_png(path, pixels)
        self._curves.picture("reals", pixels, self.trainer.images, due=True)

    def last(self) -> None:
        """The row and the grid of the last images, if they were not due; after the checkpoint (see the module)."""
        trainer, log = self.trainer, self.config.log
        if not trainer.due(log.every_kimg):
            self.row(due=False)
        if not trainer.due(log.samples_every_kimg):
            self.samples(due=False)

    def evaluation(self, rows: list[dict[str, Any]], *, drawn: bool) -> None:
        """Results of metrics, on the main rank: as a line, and as curves unless those are drawn already."""
        if self._curves is not None and not drawn:
            points = {f"metrics/{row['label']}": row["value"] for row in rows}
            due = self.trainer.due(self.config.evaluate.every_kimg)
            self._curves.points(points, self.trainer.images, due=due)
        self.say("  ".join([f"{self.trainer.images / 1000:g} kimg", *(result_text(row) for row in rows)]))
