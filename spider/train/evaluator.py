"""Measuring while training: the same samples at every visit, and which checkpoint is best.

An evaluation may take longer than a job that is taken away has left. One that is abandoned is owed: the checkpoint of
that moment says so, and whoever goes on from it makes it before anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from shards.dataset import ShardDataset
from spider.clock import crosses
from spider.data import open_images
from spider.errors import SpiderError, SpiderUsageError
from spider.files import cache_directory
from spider.heartbeat import Heartbeat
from spider.judge.embed.cache import FeatureCache
from spider.judge.evaluation import open_embedding, size_notes
from spider.judge.metrics.by_class import require_classes
from spider.judge.metrics.evaluate import evaluate_images
from spider.judge.metrics.protocols import protocol_named
from spider.judge.metrics.registry import METRICS, metrics_named
from spider.judge.metrics.results import write_result
from spider.runs.directory import RunDirectory, checkpoint_name
from spider.runs.provenance import versions
from spider.runs.records import BestRecord
from spider.train.record import Recorder
from spider.train.trainer import Trainer
from untrusted.typed import checked


@dataclass(frozen=True)
class Best:
    """The checkpoint with the best value of the first metric so far."""

    checkpoint: str
    metric: str
    value: float

    def as_json(self) -> dict[str, Any]:
        """For checkpoints and best.json: a `BestRecord`."""
        return asdict(self)


class Evaluator:
    """Runs `evaluate.metrics` on the averaged generator. Nothing is opened unless `evaluate.every_kimg` is set.

    Attributes:
        best: the best checkpoint so far; None before the first evaluation.
        before: the best one before that.
        owed: whether an evaluation at the present clock was begun and abandoned.
    """

    def __init__(self, trainer: Trainer, directory: RunDirectory) -> None:
        self.trainer = trainer
        self.directory = directory
        self.settings = settings = trainer.config.evaluate
        self.best: Best | None = None
        self.before: Best | None = None
        self.owed = False
        self.reference: ShardDataset | None = None
        if settings.every_kimg is None:
            return
        # All is opened before the first step, so that what is missing or misspelt stops a run at its start
        if settings.protocol is not None:
            with _at("evaluate.protocol"):
                protocol_named(settings.protocol)
        with _at("evaluate.embedding"):
            self.embedding = open_embedding(settings.embedding, settings.protocol, settings.weights, trainer.world)
        with _at("evaluate.metrics"):
            first, *others = metrics_named(list(settings.metrics), self.embedding)
        if first.better is None:
            raise SpiderUsageError(f"evaluate.metrics: {first.name} comes first, and no checkpoint is best by it")
        self.reference = trainer.dataset if settings.reference is None else open_images(settings.reference)
        if any(metric.needs_classes for metric in (first, *others)):
            with _at("evaluate.metrics"):
                require_classes(
                    {"the generator": trainer.conditions.names, "the reference": self.reference.class_names}
                )
        self.cache = FeatureCache(cache_directory("features"))

    @property
    def active(self) -> bool:
        """Whether anything is measured."""
        return self.reference is not None

    def measure(self, record: Recorder, heartbeat: Heartbeat) -> bool:
        """Evaluate the averaged generator; whether it is the best so far. All ranks.

        Args:
            heartbeat: see `spider.heartbeat`. If it raises, nothing was measured, and the evaluation is owed.
        """
        trainer, settings = self.trainer, self.settings
        assert self.reference is not None
        generator = trainer.frozen()
        name = checkpoint_name(trainer.images)
        self.owed = True
        results = evaluate_images(
            generator.numbered(f"{self.directory.path.name}@{name}", settings.seed, settings.count),
            self.reference,
            metrics=settings.metrics,
            embedding=self.embedding,
            world=trainer.world,
            protocol=settings.protocol,
            training=trainer.dataset,
            seed=settings.seed,
            cache=self.cache,
            heartbeat=heartbeat,
        )
        self.owed = False
        if trainer.world.is_main:
            notes = size_notes(trainer.image_shape, self.reference.index.shape)
            if self.best is None:  # the first time
                for note in notes:
                    record.say(f"warning: {note}")
            about = {"images": trainer.images, "notes": notes, "versions": versions()}
            provenance = {**generator.provenance(), **about}
            file = self.directory.evaluations / f"{name}.json"
            # The file comes after the curves. So if it is there, they have the point, and a kill came before the save
            record.evaluation([result.to_json() for result in results], drawn=file.exists())
            write_result(file, results, provenance)
        first = results[0]
        if first.value is None or not self._improves(first.name, first.value):
            return False
        self.before, self.best = self.best, Best(name, first.label, first.value)
        return True

    def state(self) -> dict[str, Any]:
        """Which checkpoint is best, by which reference, and whether an evaluation is owed, as JSON."""
        return {
            "best": self.best.as_json() if self.best else None,
            "before": self.before.as_json() if self.before else None,
            "reference": self.reference.fingerprint if self.reference else None,
            "owed": self.owed,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave. Raises SpiderError if other reference images have come in place of those.

        Raises KeyError or UnreadableError if it is no such state.
        """
        theirs, mine = state["reference"], self.state()["reference"]
        if None not in (theirs, mine) and theirs != mine:
            raise SpiderError(f"evaluate.reference: the run was measured against {theirs}, this one would be by {mine}")
        self.best, self.before = (_best(state[key], key) for key in ("best", "before"))
        due = crosses(self.trainer.images, self.trainer.config.batch, self.settings.every_kimg)  # by today's settings
        self.owed = due and state.get("owed", False)  # which older checkpoints do not say

    def _improves(self, metric: str, value: float) -> bool:
        if self.best is None:
            return True
        return value > self.best.value if METRICS[metric].better == "higher" else value < self.best.value


def _best(found: Any, where: str) -> Best | None:
    return None if found is None else Best(**checked(found, BestRecord, where))


@contextmanager
def _at(key: str) -> Iterator[None]:
    """What is refused within is refused by its key."""
    try:
        yield
    except SpiderError as error:
        raise type(error)(f"{key}: {error}") from None
