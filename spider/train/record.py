"""What a run writes for people: metrics.jsonl, TensorBoard, sample grids, a progress bar.

metrics.jsonl is the source of every curve: one JSON object per row, {"images", "kimg", ...means since the row
before..., "timing": {...}}. All but `timing` is a function of the configuration alone. When a run resumes, everything
that was written after its checkpoint is taken back first, so that no curve goes back in time or shows a row twice.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from spider.files import finite
from spider.grids import sample_grid, write_png
from spider.images import to_float
from spider.run import RunDirectory, checkpoint_name, images_of
from spider.train.trainer import Trainer


class Recorder:
    """Writes on the main rank; on the others it only takes part in what is collective."""

    def __init__(self, directory: RunDirectory, trainer: Trainer, total_images: int, progress: bool) -> None:
        self.directory = directory
        self.trainer = trainer
        self.is_main = trainer.world.is_main
        self.config = trainer.config
        self._writer: SummaryWriter | None = None
        self._bar: tqdm[Any] | None = None
        self._row_started = time.perf_counter()
        self._row_images = trainer.images
        self._skipped = trainer.guard.skipped
        if not self.is_main:
            return
        rewind(directory, trainer.images)
        if self.config.log.tensorboard:
            # purge_step makes TensorBoard drop what an interrupted run wrote after the checkpoint
            self._writer = SummaryWriter(str(directory.tensorboard), purge_step=trainer.images + 1)
        self._bar = tqdm(
            total=total_images, initial=trainer.images, unit="img", unit_scale=True, disable=not progress, smoothing=0.1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def say(self, line: str) -> None:
        """A line for the person who watches."""
        if self.is_main:
            tqdm.write(line, file=sys.stderr)

    def iteration(self) -> None:
        """After every iteration: the bar, warnings, and k if its trace is wanted."""
        trainer = self.trainer
        for warning in trainer.warnings:
            self.say(f"skipped a step: {warning}")
        if self._bar is not None:
            self._bar.update(trainer.config.batch)
        window = self.config.selection.trace
        step = trainer.step - 1
        if window is not None and self.is_main and window.first_step <= step < window.first_step + window.steps:
            row = {"step": step, "images": trainer.images, "k": trainer.last_k, "p": trainer.overfit.p}
            _append(self.directory.trace_file, row)

    def row(self) -> None:
        """The means since the last row."""
        trainer = self.trainer
        means = trainer.stats.means()
        row: dict[str, Any] = {"images": trainer.images, "kimg": trainer.images / 1000, **means}
        if {"logits/real", "logits/fake"} <= means.keys():
            row["score_gap"] = means["logits/real"] - means["logits/fake"]
        row |= {"overfit/eta": trainer.overfit.eta, "overfit/p": trainer.overfit.p}
        row |= {"selection/k_now": trainer.selection.k(trainer.images), "guard/skipped": trainer.guard.skipped}
        row["timing"] = self._timing()
        if not self.is_main:
            return
        _append(self.directory.metrics_file, row)
        self._scalars({name: value for name, value in row.items() if name not in ("images", "kimg", "timing")})
        self._scalars({f"timing/{name}": value for name, value in row["timing"].items()})
        if self._bar is not None:
            self._bar.set_postfix_str(_postfix(row, trainer.config.batch), refresh=False)

    def samples(self) -> None:
        """Samples of the averaged generator from fixed inputs, each beside the source image that made it."""
        if not self.is_main:
            return
        generator, count = self.trainer.frozen(), self.config.log.samples
        images, sources = generator.with_sources(self.config.seed, range(count))
        self._image("samples", checkpoint_name(self.trainer.images).removesuffix("-kimg"), sample_grid(images, sources))

    def reals(self) -> None:
        """A grid of training images, once."""
        if not self.is_main or (self.directory.samples / "reals-kimg.png").exists():
            return
        count = min(self.config.log.samples, len(self.trainer.dataset))
        self._image("reals", "reals", sample_grid(to_float(self.trainer.dataset.batch(0, count))))

    def evaluation(self, rows: list[dict[str, Any]]) -> None:
        """Results of metrics, as JSON and as curves."""
        if not self.is_main:
            return
        self._scalars({f"metrics/{row['label']}": row["value"] for row in rows})
        self.say("  ".join([f"{self.trainer.images / 1000:g} kimg", *(_result(row) for row in rows)]))

    def _timing(self) -> dict[str, float]:
        """img/s, data wait and memory since the last row."""
        now, trainer = time.perf_counter(), self.trainer
        seconds, images = now - self._row_started, trainer.images - self._row_images
        self._row_started, self._row_images = now, trainer.images
        timing = {
            "img_per_s": images / seconds,
            "sec_per_kimg": seconds / images * 1000,
            "data_wait_percent": 100 * trainer.waits.take() / seconds,
            "host_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if trainer.world.device.type == "cuda":
            timing["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
            timing["gpu_reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
        return timing

    def _scalars(self, values: dict[str, float | None]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, self.trainer.images)
            self._writer.flush()

    def _image(self, tag: str, stem: str, pixels: Any) -> None:
        write_png(self.directory.samples / f"{stem}-kimg.png", pixels)
        if self._writer is not None:
            self._writer.add_image(tag, pixels, self.trainer.images, dataformats="HWC")


def rewind(directory: RunDirectory, images: int) -> None:
    """Take back everything that was written after `images`."""
    for file in (directory.metrics_file, directory.trace_file):
        if file.is_file():
            kept = [line for line in file.read_text("utf-8").splitlines() if _at_most(line, images)]
            beside = file.with_name(f".{file.name}.tmp")
            beside.write_text("".join(f"{line}\n" for line in kept), "utf-8")
            beside.replace(file)
    for folder, suffix in ((directory.samples, ".png"), (directory.evaluations, ".json")):
        for file in folder.glob(f"[0-9]*-kimg{suffix}"):
            if images_of(file.name.removesuffix(suffix)) > images:
                file.unlink()


def _at_most(line: str, images: int) -> bool:
    try:
        return bool(json.loads(line)["images"] <= images)
    except ValueError:  # the line that a kill cut short
        return False


def _append(path: Path, row: dict[str, Any]) -> None:
    text = json.dumps(finite(row), allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def _result(row: dict[str, Any]) -> str:
    return f"{row['label']} {'undefined' if row['value'] is None else format(row['value'], '.4g')}"


def _postfix(row: dict[str, Any], batch: int) -> str:
    parts = [
        f"{short} {row[name]:.3g}"
        for short, name in (("Dr", "loss/d_real"), ("Df", "loss/d_fake"), ("G", "loss/g"))
        if name in row
    ]
    if "selection/k" in row:
        parts.append(f"k {row['selection/k_now']}/{batch}")
    return " ".join([*parts, f"p {row['overfit/p']:.3f}"])
