"""How a comparison is scored by the metrics whose formulas know nothing of comparisons: FID, KID, precision, ..."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from spider.judge.embed.cache import Features
from spider.judge.metrics.by_class import LEAST, ClassPairs, distances_by_class
from spider.judge.metrics.comparison import Comparison, Score
from spider.judge.metrics.frechet import NormalLaw, few_images, law_distance, too_few_images
from spider.judge.metrics.inception_score import inception_score
from spider.judge.metrics.kid import kid, kid_full
from spider.judge.metrics.moments import moments_of
from spider.judge.metrics.nearest import TAIL
from spider.judge.metrics.prdc import Neighbourhood
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.robust import SUBSETS as SID_SUBSETS
from untrusted.counts import counted, some_of


def score_fid(c: Comparison) -> Score:
    ddof = c.protocol.ddof
    samples = _law(c, c.samples)
    reference = c.reference_law or _law(c, c.reference)
    c.heartbeat()
    distance = law_distance(samples, reference)
    sets = {"samples": c.samples} | ({"images of the reference": c.reference} if c.reference_law is None else {})
    dim = c.samples.shape[1]
    found = {name: few_images(len(features), dim) for name, features in sets.items()}
    few = [f"{len(sets[name]):,} {name}" for name, why in found.items() if why]
    why = next((why for why in found.values() if why), None)
    return Score(distance, protocol={"ddof": ddof}, warnings=[f"{' and '.join(few)} are {why}"] if why else [])


def _law(c: Comparison, features: Features) -> NormalLaw:
    moments = moments_of(features, c.world, heartbeat=c.heartbeat)
    c.heartbeat()  # in 2048 dimensions the decomposition takes seconds
    return NormalLaw.of(moments, c.protocol.ddof)


def score_fid_class(c: Comparison) -> Score:
    assert c.classes is not None
    return _by_class(c, c.classes, ("class", "classes"))


def score_fid_strata(c: Comparison) -> Score:
    assert c.classes is not None
    return _by_class(c, c.classes.strata(), ("stratum", "strata"))


def _by_class(c: Comparison, classes: ClassPairs, words: tuple[str, str]) -> Score:
    ddof = c.protocol.ddof
    rows = distances_by_class(c.samples, c.reference, classes, c.world, ddof=ddof, heartbeat=c.heartbeat)
    values = [row["value"] for row in rows if row["value"] is not None]
    few = [row["class"] for row in rows if row["value"] is None]
    warnings = [_left_out(few, len(rows), words)] if few else []
    smallest = min((min(row["samples"], row["reference"]) for row in rows if row["value"] is not None), default=0)
    biased = too_few_images(smallest, c.samples.shape[1]) if values else None
    return Score(
        float(np.mean(values)) if values else math.nan,
        std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        std_over=counted(len(values), *words) if len(values) > 1 else None,
        protocol={"ddof": ddof, "least_images": LEAST},
        warnings=[*warnings, *([f"the smallest {words[0]}: {biased}"] if biased else [])],
        details={"classes": rows},
    )


def _left_out(few: list[str], classes: int, words: tuple[str, str]) -> str:
    """A warning of the classes without a number."""
    which = f"{len(few)} of {counted(classes, *words)}"
    return f"{which} left out, with fewer than {LEAST} images in a set: {some_of(few)}"


def score_kid(c: Comparison) -> Score:
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


def score_kid_full(c: Comparison) -> Score:
    found = kid_full(c.samples, c.reference, c.world, progress=c.progress, heartbeat=c.heartbeat)
    return Score(found.value, stderr=found.stderr)


def score_is(c: Comparison) -> Score:
    assert c.logits is not None
    splits = c.protocol.is_splits
    score = inception_score(c.logits, splits=splits, shuffle_seed=c.seed if c.protocol.is_shuffled else None)
    return Score(
        score.value,
        std=score.std,
        std_over=f"{splits} splits",
        protocol={"splits": splits, "shuffled": c.protocol.is_shuffled, "logit_bias": False},
    )


def score_precision(c: Comparison) -> Score:
    return _manifold_score(c, c.protocol.precision_recall, "precision", _few_balls(c))


def score_recall(c: Comparison) -> Score:
    return _manifold_score(c, c.protocol.precision_recall, "recall")


def score_density(c: Comparison) -> Score:
    return _manifold_score(c, c.protocol.density_coverage, "density", _few_balls(c))


def score_coverage(c: Comparison) -> Score:
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


def score_csid(c: Comparison) -> Score:
    curve = c.sid_curve
    if curve is None:
        return Score(math.nan, warnings=[_NO_CUBE])
    return Score(curve.csid, stderr=curve.csid_stderr, protocol=_sid_protocol(curve), details=_sid_details(curve))


def score_sid(c: Comparison) -> Score:
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


_NO_SCALE = "undefined: the median distance of {} is 0, because all of them are copies"


def score_nearest(c: Comparison) -> Score:
    found = c.nearest_training
    share = found.share_in_tail
    memorised = (
        f"copies? {share:.1%} of the samples are nearer to a training image than {1 - TAIL:.0%} of {found.scale_name}, "
        f"{found.ahead:,} nearer than all of them"
    )
    warnings = [memorised] if found.looks_copied else []
    if math.isnan(found.ratio):
        warnings.append(_NO_SCALE.format(found.scale_name))
    if found.left_out is not None and found.copies >= _REPEATED * (found.copies + len(found.unseen)):
        warnings.append(found.left_out)
    quantiles = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
    closest = np.argsort(found.samples.distances, kind="stable")[:10]
    return Score(
        found.ratio,
        protocol={"scale": found.scale_name, "scale_images": len(found.unseen)},
        warnings=warnings,
        details={
            "share_in_tail": share,
            "tail_distance": found.tail,
            "ahead": found.ahead,
            "chance_of_ahead": found.chance_of_ahead,
            "copies_left_out": found.copies,
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
