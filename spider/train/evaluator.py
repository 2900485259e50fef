"""Measuring while training: the same samples at every visit, and which checkpoint is best.

An evaluation may take longer than a job that is taken away has left. One that is abandoned is owed: the checkpoint of
that moment says so, and whoever goes on from it makes it before anything else.
"""

from __future__ import annotations

from typing import Any

from spider.errors import SpiderError
from spider.heartbeat import Heartbeat
from spider.judge.metrics.registry import METRICS
from spider.judge.repeated import RepeatedEvaluation
from spider.runs.directory import RunDirectory, checkpoint_name
from spider.runs.records import BestRecord
from spider.train.record import Recorder
from spider.train.trainer import Trainer
from untrusted.typed import checked


class Evaluator:
    """Runs `evaluate.metrics` on the averaged generator. Nothing is opened unless `evaluate.every_kimg` is set.

    Attributes:
        opened: what it measures by; None if it measures nothing.
        best: the best checkpoint so far; None before the first evaluation.
        before: the best one before that.
        owed: whether an evaluation at the present clock was begun and abandoned.
    """

    def __init__(self, trainer: Trainer, directory: RunDirectory) -> None:
        self.trainer = trainer
        self.directory = directory
        self.every_kimg = trainer.config.evaluate.every_kimg
        self.best: BestRecord | None = None
        self.before: BestRecord | None = None
        self.owed = False
        self.opened = None if self.every_kimg is None else open_evaluation(trainer)

    def measure(self, record: Recorder, heartbeat: Heartbeat) -> bool:
        """Evaluate the averaged generator; whether it is the best so far. All ranks.

        Args:
            heartbeat: see `spider.heartbeat`. If it raises, nothing was measured, and the evaluation is owed.
        """
        trainer, opened = self.trainer, self.opened
        assert opened is not None
        generator = trainer.frozen()
        name = checkpoint_name(trainer.images)
        self.owed = True
        results = opened.measure(generator, f"{self.directory.path.name}@{name}", heartbeat, progress=record.progress)
        self.owed = False
        if trainer.world.is_main:
            file = self.directory.evaluations / f"{name}.json"
            for note in opened.remarks(results, file, first=self.best is None):
                record.say(f"warning: {note}")
            # The file comes after the curves. So if it is there, they have the point, and a kill came before the save
            record.evaluation([result.to_json() for result in results], drawn=file.exists())
            opened.write(file, results, generator.provenance(), trainer.images)
        first = results[0]
        if first.value is None or not self._improves(first.name, first.value):
            return False
        self.before, self.best = self.best, BestRecord(checkpoint=name, metric=first.label, value=first.value)
        return True

    def state(self) -> dict[str, Any]:
        """Which checkpoint is best, by which reference and embedding, and whether an evaluation is owed, as JSON."""
        return {
            "best": self.best,
            "before": self.before,
            "reference": self.opened.reference.fingerprint if self.opened else None,
            "weights": self.opened.embedding.digest if self.opened else None,
            "owed": self.owed,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave. Raises SpiderError if other reference images or weights have come.

        Raises KeyError or UnreadableError if it is no such state.
        """
        for key in ("reference", "weights"):  # older checkpoints do not say which weights
            theirs, mine = state.get(key), self.state()[key]
            if None not in (theirs, mine) and theirs != mine:
                raise SpiderError(f"evaluate.{key}: the run was measured by {theirs}, this one would be by {mine}")
        self.best, self.before = (
            None if state[key] is None else checked(state[key], BestRecord, key) for key in ("best", "before")
        )
        due = self.trainer.due(self.every_kimg)  # by today's settings
        self.owed = due and state.get("owed", False)  # which older checkpoints do not say

    def _improves(self, metric: str, value: float) -> bool:
        if self.best is None:
            return True
        return value > self.best["value"] if METRICS[metric].better == "higher" else value < self.best["value"]


def open_evaluation(trainer: Trainer) -> RepeatedEvaluation:
    """What a training's configuration measures by. Raises as `RepeatedEvaluation`."""
    settings, told, judge = trainer.config.evaluate, trainer.conditions, trainer.config.discriminator
    shape, eyes = trainer.image_shape, judge.looks_through
    return RepeatedEvaluation(settings, trainer.dataset, shape, told, trainer.world, looks_through=eyes)
