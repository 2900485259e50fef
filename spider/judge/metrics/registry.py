"""Every metric by name: what it needs of the images and how it is scored. A new metric is an entry here.

What scores it is `score_NAME`: of `scores`, or of a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from spider.errors import SpiderUsageError
from spider.judge.embed.embedding import Embedding
from spider.judge.metrics.authenticity import score_authenticity
from spider.judge.metrics.cmmd import score_cmmd
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.data_copying import score_ct
from spider.judge.metrics.fd_infinity import score_fd_infinity
from spider.judge.metrics.fd_ratio import score_fdr
from spider.judge.metrics.mind import score_mind
from spider.judge.metrics.scores import (
    score_coverage,
    score_csid,
    score_density,
    score_fid,
    score_fid_class,
    score_fid_strata,
    score_is,
    score_kid,
    score_kid_full,
    score_nearest,
    score_precision,
    score_recall,
    score_sid,
)
from spider.judge.metrics.vendi import score_vendi
from spider.measures import MetricName
from untrusted.words import not_known


@dataclass(frozen=True)
class Metric:
    """An entry.

    Attributes:
        label: its name in the literature.
        about: one line for `--help`.
        network: the embedding that the label means; None: it means none, and the embedding's name is always added.
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
    network: Literal["inception", "clip"] | None = "inception"
    elsewhere: str | None = None
    needs_logits: bool = False
    needs_classes: bool = False
    needs_training: bool = False
    reads: Literal["features", "moments", "nothing"] = "features"
    better: Literal["lower", "higher"] | None = None

    def label_under(self, embedding: Embedding) -> str:
        """The label, which is the literature's only for the network and weights of the literature."""
        if self.network == "inception" and embedding.label == f"inception/{embedding.protocol}":
            return self.label
        meant = self.network is None or (self.network == "clip" and embedding.name == "clip")
        return f"{self.label if meant else self.elsewhere or self.label}[{embedding.label}]"


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
        Metric(
            "fid_strata",
            "FID by stratum",
            "the same of all classes with many, with medium and with few training images; 0 is best",
            score_fid_strata,
            elsewhere="FD by stratum",
            needs_classes=True,
            better="lower",
        ),
        Metric(
            "fdr",
            "FDr",
            "Fréchet distance over that of as many real images; 1 is as good as real",
            score_fdr,
            network=None,
            needs_training=True,
            better="lower",
        ),
        Metric(
            "fd_infinity",
            "FID-infinity",
            "Fréchet distance as of infinitely many samples",
            score_fd_infinity,
            elsewhere="FD-infinity",
            reads="moments",
            better="lower",
        ),
        Metric(
            "mind",
            "MIND",
            "Monge distance along random directions; 0 is best; for few images",
            score_mind,
            elsewhere="Monge distance",
            better="lower",
        ),
        Metric(
            "cmmd",
            "CMMD",
            "kernel distance of unit vectors, meant for CLIP's; 0 is best",
            score_cmmd,
            network="clip",
            elsewhere="Gaussian MMD",
            better="lower",
        ),
        Metric(
            "vendi",
            "Vendi",
            "how many different images the samples are worth",
            score_vendi,
            network=None,
            reads="nothing",
        ),
        Metric(
            "authenticity",
            "authenticity",
            "share of samples that are no closer to a training image than another training image is",
            score_authenticity,
            network=None,
            needs_training=True,
        ),
        Metric(
            "ct",
            "C_T",
            "distances to training images against those of held-out ones, in deviations; far below 0 is copies",
            score_ct,
            network=None,
            needs_training=True,
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
