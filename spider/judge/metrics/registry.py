"""Every metric by name: what it needs of the images and how it is scored. A new metric is an entry here.

What scores it is `score_NAME`: of `scores`, or of a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from spider.errors import SpiderUsageError
from spider.judge.embed.embedding import Embedding
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.scores import (
    score_coverage,
    score_csid,
    score_density,
    score_fid,
    score_fid_class,
    score_is,
    score_kid,
    score_kid_full,
    score_nearest,
    score_precision,
    score_recall,
    score_sid,
)
from spider.measures import MetricName
from untrusted.words import not_known


@dataclass(frozen=True)
class Metric:
    """An entry.

    Attributes:
        label: its name in the literature, which often means Inception's features.
        about: one line for `--help`.
        elsewhere: its name under another embedding, where that is not `label`; the embedding's name is added to it.
        needs_logits: whether the embedding must classify.
        needs_classes: whether samples and reference must have classes.
        needs_training: whether it looks at the generator's training images.
        reads: what it looks at of the reference: each image's features, their mean and covariance, or nothing.
        better: which way is better, where a checkpoint can be chosen by it.
    """

    name: MetricName
    label: str
    about: str
    score: Callable[[Comparison], Score]
    elsewhere: str | None = None
    needs_logits: bool = False
    needs_classes: bool = False
    needs_training: bool = False
    reads: Literal["features", "moments", "nothing"] = "features"
    better: Literal["lower", "higher"] | None = None

    def label_under(self, embedding: Embedding) -> str:
        """The label, which is the literature's only for the network and weights of the literature."""
        if embedding.label == f"inception/{embedding.protocol}":
            return self.label
        return f"{self.elsewhere or self.label}[{embedding.label}]"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("fid", "FID", "Fréchet distance; 0 is best", score_fid, elsewhere="FD", reads="moments", better="lower"),
        Metric(
            "kid",
            "KID",
            "unbiased kernel distance, about 0 at best, over subsets",
            score_kid,
            elsewhere="KD",
            better="lower",
        ),
        Metric("kid_full", "KID full", "the same from all pairs", score_kid_full, elsewhere="KD full", better="lower"),
        Metric(
            "is",
            "IS",
            "Inception score, needs class logits",
            score_is,
            needs_logits=True,
            reads="nothing",
            better="higher",
        ),
        Metric(
            "precision",
            "precision",
            "share of samples that look like the reference",
            score_precision,
            better="higher",
        ),
        Metric("recall", "recall", "share of the reference that the samples reach", score_recall, better="higher"),
        Metric(
            "density",
            "density",
            "how dense the reference is around samples; may exceed 1",
            score_density,
            better="higher",
        ),
        Metric("coverage", "coverage", "share of the reference with a sample near by", score_coverage, better="higher"),
        Metric(
            "csid",
            "CSID[-1]",
            "area of signed distance; below 0: less diverse than the reference",
            score_csid,
            elsewhere="CSD[-1]",
        ),
        Metric("sid", "SID[-1]", "signed distance at the radius where it is largest", score_sid, elsewhere="SD[-1]"),
        Metric(
            "nearest",
            "nearest training",
            "distance to the nearest training image over that of images that are no copies; 1 is one law, 0 copies",
            score_nearest,
            needs_training=True,
        ),
        Metric(
            "fid_class",
            "FID by class",
            "mean over classes of the Fréchet distance of each; 0 is best",
            score_fid_class,
            elsewhere="FD by class",
            needs_classes=True,
            better="lower",
        ),
    )
}


def metrics_named(names: list[str], embedding: Embedding) -> list[Metric]:
    """The metrics of those names, in that order.

    Raises:
        SpiderUsageError: a name is unknown, or its metric needs class logits that the embedding does not have.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise SpiderUsageError(f"metric {not_known(unknown[0], METRICS)}")
    if not names:
        raise SpiderUsageError(f"no metric asked for; known: {', '.join(METRICS)}")
    metrics = [METRICS[name] for name in dict.fromkeys(names)]
    for metric in metrics:
        if metric.needs_logits and not embedding.has_logits:
            raise SpiderUsageError(
                f"metric {metric.name!r} needs class logits, which embedding {embedding.label} does not have"
            )
    return metrics
