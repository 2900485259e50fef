"""Measure images against a reference: the features of each set once, then every metric that was asked for.

All ranks take part and all get the same results, which do not depend on how many they are: features are extracted and
merged by blocks of image numbers, metrics computed by numbered units of work (`spider.judge.metrics.spread`), and what
rank 0 found is what every rank reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spider.errors import SpiderError, SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import FeatureCache, Features
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.features import extract_features, extract_features_and_logits
from spider.judge.embed.given import GivenFeatures
from spider.judge.embed.images import NumberedImages
from spider.judge.metrics.authenticity import score_authenticity
from spider.judge.metrics.by_class import ClassPairs
from spider.judge.metrics.comparison import Comparison
from spider.judge.metrics.data_copying import CELLS, score_ct
from spider.judge.metrics.frechet import NormalLaw
from spider.judge.metrics.protocols import protocol_for
from spider.judge.metrics.registry import Metric, metrics_named
from spider.judge.metrics.results import MetricResult

if TYPE_CHECKING:
    from cluster.world import World


def evaluate_images(
    samples: NumberedImages,
    reference: NumberedImages | GivenFeatures,
    *,
    metrics: Sequence[str],
    embedding: Embedding,
    world: World,
    protocol: str | None = None,
    count: int | None = None,
    training: NumberedImages | None = None,
    seed: int = 0,
    cache: FeatureCache | None = None,
    keep_samples: bool = False,
    page: Path | None = None,
    progress: bool = False,
    heartbeat: Heartbeat = silent,
) -> list[MetricResult]:
    """Score `samples` against `reference`; a collective: every rank calls it and gets the same results.

    Args:
        reference: images, or their features from a file.
        metrics: names from `spider.judge.metrics.registry.METRICS`, e.g. `["fid", "kid", "recall"]`.
        embedding: what the images are compared through.
        protocol: a name from `spider.judge.metrics.protocols.PROTOCOLS`; by default the embedding's own.
        count: measure the first `count` samples; all of them by default. The reference is always whole.
        training: the generator's training images, where the reference is another set. `nearest` then looks for copies
            of these and takes the reference as the images that are none.
        seed: of the metrics' own draws (KID's subsets, ...), not of the samples.
        cache: keeps the features of reference and training images between calls.
        keep_samples: keep those of the samples too: of images that lie on a disk, rather than a generator's, of which
            every checkpoint would leave its own.
        page: a PNG file for the memorisation page (`spider.judge.metrics.memorisation_page`).
        heartbeat: called on all ranks every few seconds, at the same places; what it raises ends the evaluation.

    Raises:
        SpiderUsageError: an unknown metric or protocol, one that the embedding cannot serve, too few images for it,
            images without classes for one that needs them, or a file without what one reads of the reference.
        SpiderError: an image has features that are not finite.
    """
    chosen = metrics_named(list(metrics), embedding)
    rules = protocol_for(embedding, protocol)
    count = len(samples) if count is None else count
    if not 0 < count <= len(samples):
        raise SpiderUsageError(f"{samples.name}: cannot measure {count} images; it has {len(samples)}")
    only: list[str] = getattr(samples, "only_classes", [])
    is_own = training is not None and training.fingerprint == reference.fingerprint
    if is_own:
        training = None
    if page is None and not any(metric.needs_training for metric in chosen):
        training = None

    classes = None
    if isinstance(reference, GivenFeatures):
        require_given(reference, chosen)
        if page is not None and training is None:
            what = f"{reference.path} holds {reference.holds}"
            raise SpiderUsageError(f"figures show images of the reference, and {what}")
    elif any(metric.needs_classes for metric in chosen):
        classes = ClassPairs.of(samples, count, reference)
        if any(metric.name == "fid_strata" for metric in chosen):
            classes.strata()  # which is refused now, before anything is embedded
    drawn = _samples(samples, count, chosen, embedding, world, cache if keep_samples else None, progress, heartbeat)
    known = _features(reference, embedding, world, cache, progress, heartbeat)
    learnt = None if training is None else _features(training, embedding, world, cache, progress, heartbeat)
    comparison = Comparison(
        *drawn,
        reference=known,
        training=learnt,
        protocol=rules,
        seed=seed,
        world=world,
        progress=progress,
        heartbeat=heartbeat,
        classes=classes,
        reference_law=given_law(reference),
    )
    sets = {"samples": _described(samples, count), "reference": _described(reference)}
    if only:
        sets["samples"]["classes"] = only
        if is_own:
            sets["reference"]["classes"] = only
    for name in ("classes_alike", "rebalanced"):
        if getattr(samples, name, False):
            sets["samples"][name] = True
    if training is not None:
        sets["training"] = _described(training)
        sets["reference"]["held_out"] = comparison.held_out is not None
    results = [_result(metric, comparison, embedding, sets) for metric in chosen]
    if page is not None:
        _draw_page(page, comparison, samples, reference, training, embedding)
    # Ranks on machines of different kinds may round differently; what is decided from a number is decided by all alike.
    return [MetricResult.from_json(r) for r in world.broadcast_json([result.to_json() for result in results])]


def _samples(
    samples: NumberedImages,
    count: int,
    metrics: Sequence[Metric],
    embedding: Embedding,
    world: World,
    cache: FeatureCache | None,
    progress: bool,
    heartbeat: Heartbeat,
) -> tuple[Features, Features | None]:
    """Features of the first `count` samples, and their logits if a metric needs them."""
    if not any(metric.needs_logits for metric in metrics):
        features = extract_features(
            samples, embedding, world, stop=count, cache=cache, progress=progress, heartbeat=heartbeat
        )
        return _require_finite(features, samples), None
    features, logits = extract_features_and_logits(
        samples, embedding, world, stop=count, cache=cache, progress=progress, heartbeat=heartbeat
    )
    return _require_finite(features, samples), _require_finite(logits, samples)


def _draw_page(
    file: Path,
    comparison: Comparison,
    samples: NumberedImages,
    reference: NumberedImages | GivenFeatures,
    training: NumberedImages | None,
    embedding: Embedding,
) -> None:
    """The memorisation page of what was compared. All ranks."""
    authenticity = score_authenticity(comparison)
    ct = None if comparison.held_out is None or len(comparison.learnt) < CELLS else score_ct(comparison)
    found = comparison.nearest_training
    if not comparison.world.is_main:
        return
    # Here, because matplotlib takes long to import, and most evaluations draw nothing.
    from spider.judge.metrics.memorisation_page import Pictures, draw_page

    shown = None if isinstance(reference, GivenFeatures) else reference
    learnt = training or shown
    assert learnt is not None
    unseen = shown if found.held_out else learnt
    draw_page(file, found, Pictures(samples, learnt, unseen, embedding.label, authenticity, ct))


def require_given(reference: GivenFeatures, metrics: Sequence[Metric]) -> None:
    """Raises SpiderUsageError for a metric that a file of features cannot serve."""
    for metric in metrics:
        if metric.needs_classes:
            raise SpiderUsageError(f"metric {metric.name!r} needs classes, and {reference.path} has none")
        if metric.reads == "features" and reference.rows is None:
            raise SpiderUsageError(
                f"metric {metric.name!r} needs the features of every image; {reference.path} holds {reference.holds}"
            )


def given_law(reference: NumberedImages | GivenFeatures) -> NormalLaw | None:
    """The law of a reference of which a file holds only mean and covariance; None of others."""
    if not isinstance(reference, GivenFeatures) or reference.mean is None or reference.covariance is None:
        return None
    return NormalLaw.given(reference.mean, reference.covariance)


def _described(images: NumberedImages | GivenFeatures, count: int | None = None) -> dict[str, Any]:
    """What a result says of a set."""
    if isinstance(images, GivenFeatures):
        return images.provenance()
    return {
        "name": images.name,
        "fingerprint": images.fingerprint,
        "count": len(images) if count is None else count,
    }


def _features(
    images: NumberedImages | GivenFeatures,
    embedding: Embedding,
    world: World,
    cache: FeatureCache | None,
    progress: bool,
    heartbeat: Heartbeat,
) -> Features:
    if isinstance(images, GivenFeatures):
        return images.known_rows
    features = extract_features(images, embedding, world, cache=cache, progress=progress, heartbeat=heartbeat)
    return _require_finite(features, images)


def _require_finite(rows: Features, images: NumberedImages) -> Features:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise SpiderError(
            f"{images.name}: {int((~finite).sum())} of {len(rows)} images have features that are not finite, "
            f"first image {int(np.argmin(finite))}"
        )
    return rows


def _result(
    metric: Metric, comparison: Comparison, embedding: Embedding, sets: dict[str, dict[str, Any]]
) -> MetricResult:
    comparison.heartbeat()
    score = metric.score(comparison)
    return MetricResult(
        name=metric.name,
        label=metric.label_under(embedding),
        value=score.value,
        std=score.std,
        std_over=score.std_over,
        stderr=score.stderr,
        protocol={
            "name": comparison.protocol.name,
            "embedding": embedding.label,
            "embedding_digest": embedding.digest,
            "resize": embedding.protocol,
            "dim": embedding.dim,
            "seed": comparison.seed,
            **{key: what for key in ("classes", "rebalanced") if (what := sets["samples"].get(key))},
            **score.protocol,
        },
        provenance=sets,
        warnings=score.warnings,
        details=score.details,
    )
