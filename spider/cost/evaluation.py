"""What the evaluations of a training will take. Writes nothing.

Images are made and embedded a few, and the rest is by proportion, which holds: they go through the networks in blocks.
Metrics are computed once on as many features as they will have (those of the few images over and over, a little off),
because what they take is in no proportion: a matrix root does not grow with the images, neighbourhoods grow faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spider.clock import times_due
from spider.judge.embed.cache import Features
from spider.judge.embed.features import BLOCK, extract_features, extract_features_and_logits
from spider.judge.embed.given import GivenFeatures
from spider.judge.embed.images import DrawnImages, NumberedImages
from spider.judge.metrics.by_class import ClassPairs
from spider.judge.metrics.comparison import Comparison
from spider.judge.metrics.evaluate import given_law
from spider.judge.metrics.protocols import protocol_for
from spider.train.evaluator import open_evaluation
from spider.train.trainer import Trainer
from untrusted.terminal import tell

_BLOCKS = 3  # of images that each rank embeds
_SLOW_S = 20.0  # for one block, which is then not repeated


@dataclass(frozen=True)
class EvaluationCost:
    """Seconds.

    Attributes:
        evaluations: how many there will be.
        sec_per_evaluation: of one.
        reference_sec: once, for the features of the reference images; nothing where the cache has them.
        images_measured: samples whose embedding was timed, of `images`.
    """

    evaluations: int
    sec_per_evaluation: float
    reference_sec: float
    images_measured: int
    images: int

    @property
    def sec(self) -> float:
        """Of all of them."""
        return self.evaluations * self.sec_per_evaluation + (self.reference_sec if self.evaluations else 0.0)


def evaluation_cost(trainer: Trainer) -> EvaluationCost | None:
    """Time what `trainer`'s configuration evaluates; None if it evaluates nothing. All ranks."""
    config, settings = trainer.config, trainer.config.evaluate
    if settings.every_kimg is None:
        return None
    opened = open_evaluation(trainer)
    embedding, reference, metrics = opened.embedding, opened.reference, opened.metrics
    if trainer.world.is_main:
        tell(f"measuring an evaluation: a few images made, and embedded by {settings.embedding}")
    few = BLOCK * _BLOCKS * trainer.world.size
    samples = trainer.frozen().numbered("samples", settings.seed, min(few, settings.count))
    # Features from a file cost nothing; those of training images that are looked at besides are timed in their place
    given = reference if isinstance(reference, GivenFeatures) else None
    images = trainer.dataset if isinstance(reference, GivenFeatures) else reference
    some = DrawnImages(images, min(few, len(images)), config.seed)
    needs_logits = any(metric.needs_logits for metric in metrics)
    extract = extract_features_and_logits if needs_logits else extract_features

    one_block = trainer.frozen().numbered("samples", settings.seed, min(BLOCK * trainer.world.size, settings.count))
    embedded, samples_sec = _timed(trainer, lambda: extract(one_block, embedding, trainer.world))  # warms up
    if trainer.world.any(samples_sec > _SLOW_S):
        samples = one_block
    else:
        embedded, samples_sec = _timed(trainer, lambda: extract(samples, embedding, trainer.world))
    features, logits = embedded if needs_logits else (embedded, None)
    known, some_sec = _timed(trainer, lambda: extract_features(some, embedding, trainer.world))
    other = reference.fingerprint != trainer.dataset.fingerprint and any(metric.needs_training for metric in metrics)
    comparison = Comparison(
        samples=_as_many(features, settings.count),
        logits=None if logits is None else _as_many(logits, settings.count),
        reference=_as_many(known, len(images)) if given is None else given.known_rows,
        training=_as_many(known, len(trainer.dataset)) if other else None,
        protocol=protocol_for(embedding, settings.protocol),
        seed=settings.seed,
        world=trainer.world,
        classes=_classes(trainer, images) if any(metric.needs_classes for metric in metrics) else None,
        reference_law=given_law(reference),
    )
    _, metrics_sec = _timed(trainer, lambda: [metric.score(comparison) for metric in metrics])
    return EvaluationCost(
        evaluations=times_due(0, round(config.kimg * 1000), config.batch, settings.every_kimg),
        sec_per_evaluation=samples_sec / len(samples) * settings.count + metrics_sec,
        reference_sec=some_sec
        / len(some)
        * ((len(images) if given is None else 0) + (len(trainer.dataset) if other else 0)),
        images_measured=len(samples),
        images=settings.count,
    )


def _classes(trainer: Trainer, reference: NumberedImages) -> ClassPairs:
    count = trainer.config.evaluate.count
    return ClassPairs.of(trainer.frozen().numbered("samples", trainer.config.evaluate.seed, count), count, reference)


def _as_many(features: Features, count: int) -> Features:
    """`count` rows like those of `features`, no two of which are the same."""
    noise = np.random.default_rng(0).standard_normal((count, features.shape[1]), np.float32)
    many: Features = np.resize(features, noise.shape) + 0.01 * features.std() * noise
    return many


def _timed(trainer: Trainer, work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and its seconds."""
    started = time.perf_counter()
    done = work()
    if trainer.world.device.type == "cuda":
        torch.cuda.synchronize(trainer.world.device)
    return done, time.perf_counter() - started
