"""Every metric by name: what it needs of the images and how it is scored. A new metric is an entry here.

Metrics that need the same intermediate numbers (the four of `prdc`, `sid` and `csid`) find them in one `Comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spider.errors import SpiderUsageError
from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.embed.embedding import Embedding
from spider.judge.metrics.by_class import LEAST, ClassPairs, distances_by_class
from spider.judge.metrics.frechet import frechet_distance, too_few_images
from spider.judge.metrics.inception_score import inception_score
from spider.judge.metrics.kid import kid, kid_full
from spider.judge.metrics.moments import moments_of
from spider.judge.metrics.nearest import TAIL, NearestTraining, nearest_training
from spider.judge.metrics.prdc import Manifolds, Neighbourhood, prdc
from spider.judge.metrics.protocols import Protocol
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.robust import SUBSETS as SID_SUBSETS
from spider.judge.sid.robust import sid_curves
from spider.measures import MetricName
from untrusted.counts import counted
from untrusted.words import not_known

if TYPE_CHECKING:
    from cluster.world import World


@dataclass(frozen=True)
class Comparison:
    """Two image sets as features, and what several metrics compute from them.

    Attributes:
        samples: float32 [N, d], of the images under judgement.
        logits: float32 [N, classes] of the samples, where a metric needs them.
        reference: float32 [M, d].
        training: float32 [K, d], of the generator's training images; None: the reference is they.
        classes: of samples and reference, where a metric needs them.
    """

    samples: Features
    logits: Features | None
    reference: Features
    training: Features | None
    protocol: Protocol
    seed: int
    world: World
    progress: bool = False
    heartbeat: Heartbeat = silent
    classes: ClassPairs | None = None

    @cached_property
    def manifolds(self) -> dict[Neighbourhood, Manifolds]:
        """Precision, recall, density and coverage for every neighbourhood of the protocol."""
        rules = list(dict.fromkeys([self.protocol.precision_recall, self.protocol.density_coverage]))
        found = prdc(self.samples, self.reference, rules, self.world, progress=self.progress, heartbeat=self.heartbeat)
        return dict(zip(rules, found, strict=True))

    @cached_property
    def sid_curve(self) -> SidCurve | None:
        """Signed distance of the samples to the reference; None if the reference does not vary.

        Every rank computes all of it: it takes about a second, less than sending its parts around.
        """
        if (self.reference == self.reference[0]).all():
            return None
        sources = {"samples": self.samples}
        (curve,) = sid_curves(self.reference, sources, [Kernel(-1)], seed=self.seed, device=self.world.device)[
            "samples"
        ]
        return curve

    @cached_property
    def nearest_training(self) -> NearestTraining:
        """Distances to training images. If those are not the reference, it holds out the scale."""
        training = self.reference if self.training is None else self.training
        held_out = None if self.training is None else self.reference
        return nearest_training(
            self.samples,
            training,
            self.world,
            held_out=held_out,
            seed=self.seed,
            progress=self.progress,
            heartbeat=self.heartbeat,
        )


@dataclass(frozen=True)
class Score:
    """What a metric makes of a comparison; the fields are those of `MetricResult`."""

    value: float
    std: float | None = None
    std_over: str | None = None
    stderr: float | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


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
    better: Literal["lower", "higher"] | None = None

    def label_under(self, embedding: Embedding) -> str:
        """The label, which is the literature's only for the network and weights of the literature."""
        if embedding.label == f"inception/{embedding.protocol}":
            return self.label
        return f"{self.elsewhere or self.label}[{embedding.label}]"


def _fid(c: Comparison) -> Score:
    ddof = c.protocol.ddof
    sets = {"samples": c.samples, "reference": c.reference}
    samples, reference = (moments_of(features, c.world, heartbeat=c.heartbeat) for features in sets.values())
    distance = frechet_distance(samples, reference, ddof=ddof, heartbeat=c.heartbeat)
    dim = c.samples.shape[1]
    found = [(name, too_few_images(len(features), dim)) for name, features in sets.items()]
    return Score(
        distance, protocol={"ddof": ddof}, warnings=[f"{name}: {warning}" for name, warning in found if warning]
    )


def _fid_class(c: Comparison) -> Score:
    assert c.classes is not None
    ddof = c.protocol.ddof
    rows = distances_by_class(c.samples, c.reference, c.classes, c.world, ddof=ddof, heartbeat=c.heartbeat)
    values = [row["value"] for row in rows if row["value"] is not None]
    few = [row["class"] for row in rows if row["value"] is None]
    warnings = [f"of {len(few)} of {len(rows)} classes a set has fewer than {LEAST} images: {few[0]}"] if few else []
    smallest = min((min(row["samples"], row["reference"]) for row in rows if row["value"] is not None), default=0)
    biased = too_few_images(smallest, c.samples.shape[1]) if values else None
    return Score(
        float(np.mean(values)) if values else math.nan,
        std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        std_over=counted(len(values), "class", "classes") if len(values) > 1 else None,
        protocol={"ddof": ddof, "least_images": LEAST},
        warnings=[*warnings, *([f"the smallest class: {biased}"] if biased else [])],
        details={"classes": rows},
    )


def _kid(c: Comparison) -> Score:
    asked = c.protocol.kid_subset_size
    estimate = kid(
        c.samples,
        c.reference,
        c.world,
        seed=c.seed,
        subsets=c.protocol.kid_subsets,
        subset_size=asked,
        progress=c.progress,
        heartbeat=c.heartbeat,
    )
    size = estimate.subset_size
    return Score(
        estimate.value,
        std=estimate.std,
        std_over=None if estimate.std is None else f"{estimate.subsets} subsets",
        protocol={"subsets": estimate.subsets, "subset_size": size},
        warnings=[f"subsets of {size} images instead of {asked}: a set has no more"] if size < asked else [],
    )


def _kid_full(c: Comparison) -> Score:
    return Score(kid_full(c.samples, c.reference, c.world, progress=c.progress, heartbeat=c.heartbeat))


def _inception_score(c: Comparison) -> Score:
    assert c.logits is not None
    splits = c.protocol.is_splits
    score = inception_score(c.logits, splits=splits, shuffle_seed=c.seed if c.protocol.is_shuffled else None)
    return Score(
        score.value,
        std=score.std,
        std_over=f"{splits} splits",
        protocol={"splits": splits, "shuffled": c.protocol.is_shuffled, "logit_bias": False},
    )


def _precision(c: Comparison) -> Score:
    return _manifold_score(c, c.protocol.precision_recall, "precision", _few_balls(c))


def _recall(c: Comparison) -> Score:
    return _manifold_score(c, c.protocol.precision_recall, "recall")


def _density(c: Comparison) -> Score:
    return _manifold_score(c, c.protocol.density_coverage, "density", _few_balls(c))


def _coverage(c: Comparison) -> Score:
    return _manifold_score(c, c.protocol.density_coverage, "coverage")


def _few_balls(c: Comparison) -> list[str]:
    """A reference's outliers have balls so wide that noise falls into them: precision is then 1."""
    precision = c.manifolds[c.protocol.precision_recall].precision
    under = c.manifolds[c.protocol.density_coverage]
    if under.coverage >= _LOW_COVERAGE * precision or under.reference_repeated >= _REPEATED:
        return []
    found = f"precision {precision:.3g} with coverage {under.coverage:.2g}"
    return [f"{found}: near a few images of the reference only, perhaps its outliers; says little of quality"]


def _repeated(which: str, share: float, k: int) -> list[str]:
    """A warning where balls without a size change a number."""
    if share < _REPEATED:
        return []
    return [f"duplicates: {share:.1%} of the {which} have {k} copies or more, so that their balls have no size"]


def _manifold_score(c: Comparison, rule: Neighbourhood, name: str, warnings: list[str] | None = None) -> Score:
    found = c.manifolds[rule]
    duplicates = (
        _repeated("samples", found.samples_repeated, rule.k)
        if name == "recall"
        else _repeated("reference images", found.reference_repeated, rule.k)
    )
    return Score(
        getattr(found, name), protocol={"neighbourhood": asdict(rule)}, warnings=[*duplicates, *(warnings or [])]
    )


def _csid(c: Comparison) -> Score:
    curve = c.sid_curve
    if curve is None:
        return Score(math.nan, warnings=[_NO_CUBE])
    return Score(curve.csid, stderr=curve.csid_stderr, protocol=_sid_protocol(curve), details=_sid_details(curve))


def _sid(c: Comparison) -> Score:
    curve = c.sid_curve
    if curve is None:
        return Score(math.nan, warnings=[_NO_CUBE])
    peak = int(np.abs(curve.values).argmax())
    return Score(
        float(curve.values[peak]),
        stderr=None if curve.stderr is None else float(curve.stderr[peak]),
        protocol=_sid_protocol(curve),
        details={"radius": float(curve.radii[peak]), **_sid_details(curve)},
    )


_LOW_COVERAGE = 0.1  # of precision
_REPEATED = 0.01  # share of a set, from which on its duplicates are worth a warning
_NO_CUBE = "undefined: to the embedding, all reference images are the same"


def _sid_protocol(curve: SidCurve) -> dict[str, Any]:
    return {"kernel": curve.kernel.label, "mode": curve.mode, "radii": curve.radii.tolist(), "subsets": SID_SUBSETS}


def _sid_details(curve: SidCurve) -> dict[str, Any]:
    return {"curve": curve.values.tolist(), "stderr": None if curve.stderr is None else curve.stderr.tolist()}


def _nearest(c: Comparison) -> Score:
    found = c.nearest_training
    share = found.share_in_tail
    memorised = (
        f"{share:.1%} of the samples are nearer to a training image than {1 - TAIL:.0%} of {found.scale}: copies?"
    )
    quantiles = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
    closest = np.argsort(found.samples.distances, kind="stable")[:10]
    return Score(
        found.ratio,
        protocol={"scale": found.scale, "scale_images": len(found.unseen)},
        warnings=[memorised] if found.looks_copied else [],
        details={
            "share_in_tail": share,
            "tail_distance": found.tail,
            "quantiles": quantiles,
            "samples": np.quantile(found.samples.distances, quantiles).tolist(),
            "unseen": np.quantile(found.unseen, quantiles).tolist(),
            "closest": [
                {
                    "sample": int(i),
                    "training_image": int(found.samples.indices[i]),
                    "distance": float(found.samples.distances[i]),
                }
                for i in closest
            ],
        },
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("fid", "FID", "Fréchet distance; 0 is best", _fid, elsewhere="FD", better="lower"),
        Metric(
            "kid",
            "KID",
            "unbiased kernel distance, about 0 at best, over subsets",
            _kid,
            elsewhere="KD",
            better="lower",
        ),
        Metric("kid_full", "KID full", "the same from all pairs", _kid_full, elsewhere="KD full", better="lower"),
        Metric("is", "IS", "Inception score, needs class logits", _inception_score, needs_logits=True, better="higher"),
        Metric("precision", "precision", "share of samples that look like the reference", _precision, better="higher"),
        Metric("recall", "recall", "share of the reference that the samples reach", _recall, better="higher"),
        Metric(
            "density", "density", "how dense the reference is around samples; may exceed 1", _density, better="higher"
        ),
        Metric("coverage", "coverage", "share of the reference with a sample near by", _coverage, better="higher"),
        Metric(
            "csid",
            "CSID[-1]",
            "area of signed distance; below 0: less diverse than the reference",
            _csid,
            elsewhere="CSD[-1]",
        ),
        Metric("sid", "SID[-1]", "signed distance at the radius where it is largest", _sid, elsewhere="SD[-1]"),
        Metric(
            "nearest",
            "nearest training",
            "distance to the nearest training image over that of images that are no copies; 1 is one law, 0 copies",
            _nearest,
            needs_training=True,
        ),
        Metric(
            "fid_class",
            "FID by class",
            "mean over classes of the Fréchet distance of each; 0 is best",
            _fid_class,
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
