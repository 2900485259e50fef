"""Metrics of a generator itself: what becomes of its images as its input moves. No reference, no embedding.

`ppl_wend` is what StyleGAN2-ADA's public code calls `ppl2_wend`, by the distance that is asked for. `eq_t`,
`eq_t_frac` and `eq_r` are what StyleGAN3's calls `eqt50k_int`, `eqt50k_frac` and `eqr50k`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from spider.backbones.perceptual import perceptual_distance
from spider.gan.sources.frozen import FrozenGenerator
from spider.judge.diversity import diversity_of
from spider.judge.equivariance import equivariance
from spider.judge.metrics.results import MetricResult
from spider.judge.path_length import perceptual_path_length
from spider.measures import GeneratorMetricName
from untrusted.counts import counted

if TYPE_CHECKING:
    from cluster.world import World

_PATHS: dict[GeneratorMetricName, tuple[Literal["z", "w"], Literal["full", "end"]]] = {
    "ppl_wend": ("w", "end"),
    "ppl_wfull": ("w", "full"),
    "ppl_zend": ("z", "end"),
    "ppl_zfull": ("z", "full"),
}
_FOLLOWS: dict[GeneratorMetricName, str] = {
    "eq_t": "EQ-T (dB)",
    "eq_t_frac": "EQ-T frac (dB)",
    "eq_r": "EQ-R (dB)",
}


def measure_generator(
    generator: FrozenGenerator,
    name: str,
    metrics: Sequence[str],
    world: World,
    *,
    seed: int,
    count: int,
    distance: str,
    progress: bool = False,
) -> list[MetricResult]:
    """The metrics of `spider.measures.GENERATOR_METRICS` among those named. All ranks; all get the same.

    Args:
        name: of the generator, for tables.
        seed: an evaluation seed.
        count: pairs of inputs of a path length or a diversity; images of an equivariance.
        distance: of a path length and of a diversity, by its name (`spider.measures.DISTANCES`).

    Raises:
        SpiderUsageError: the generator has no w, is not fed vectors, or its input cannot be moved.
        SpiderError: the distance's weights are not at hand.
    """
    asked = [each for each in get_args(GeneratorMetricName) if each in metrics]
    judge = None
    if any(each in _PATHS or each == "diversity" for each in asked):
        judge = perceptual_distance(distance, None, generator.device)
    followed: dict[str, float] = {}
    if any(each in _FOLLOWS for each in asked):
        followed = equivariance(generator, seed, count, world, rotations="eq_r" in asked, progress=progress)

    results = []
    for each in asked:
        std = None
        if each in _PATHS:
            assert judge is not None
            space, sampling = _PATHS[each]
            value = perceptual_path_length(
                generator, judge, seed, count, world, space=space, sampling=sampling, progress=progress
            )
            label, protocol = f"PPL {space} {sampling} by {judge.label}", {"distance": judge.label, "pairs": count}
        elif each == "diversity":
            assert judge is not None
            value, std = diversity_of(generator, judge, seed, count, world, progress=progress)
            label, protocol = f"diversity by {judge.label}", {"distance": judge.label, "pairs": count}
        else:
            # As it is used, also in half precision, which is heard here; a path length is never measured in it
            value, label, protocol = followed[each], _FOLLOWS[each], {"precision": generator.precision}
        result = _result(generator, name, each, label, value, {"seed": seed, "count": count, **protocol})
        results.append(result if std is None else replace(result, std=std, std_over=counted(count, "pair")))
    # Ranks on machines of different kinds may round differently
    return [MetricResult.from_json(result) for result in world.broadcast_json([each.to_json() for each in results])]


def _result(
    generator: FrozenGenerator, name: str, metric: str, label: str, value: float, protocol: dict[str, Any]
) -> MetricResult:
    samples = {"name": name, "fingerprint": generator.digest, "count": protocol["count"]}
    if generator.conditions.only:
        protocol = {**protocol, "classes": [*generator.conditions.only]}
    if generator.conditions.rebalanced:
        protocol = {**protocol, "rebalanced": True}
    return MetricResult(metric, label, value, protocol, {"samples": samples})
