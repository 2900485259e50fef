"""Two image sets as features, and what a metric makes of them.

Metrics that need the same intermediate numbers (the four of `prdc`, `sid` and `csid`) find them in one `Comparison`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spider.heartbeat import Heartbeat, silent
from spider.judge.embed.cache import Features
from spider.judge.metrics.by_class import ClassPairs
from spider.judge.metrics.frechet import NormalLaw
from spider.judge.metrics.nearest import NearestTraining, nearest_training
from spider.judge.metrics.prdc import Manifolds, Neighbourhood, prdc
from spider.judge.metrics.protocols import Protocol
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.robust import sid_curves

if TYPE_CHECKING:
    from cluster.world import World


@dataclass(frozen=True)
class Comparison:
    """Two image sets as features, and what several metrics compute from them.

    Attributes:
        samples: float32 [N, d], of the images under judgement.
        logits: float32 [N, classes] of the samples, where a metric needs them.
        reference: float32 [M, d]; of a reference of which only mean and covariance are given, no rows.
        reference_law: these two.
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
    reference_law: NormalLaw | None = None

    @property
    def learnt(self) -> Features:
        """Of the generator's training images; float32 [K, d]."""
        return self.reference if self.training is None else self.training

    @property
    def held_out(self) -> Features | None:
        """Of images that it did not learn: the reference, unless that is of training images. All ranks."""
        return self.reference if self.training is not None and self.nearest_training.held_out else None

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
        return nearest_training(
            self.samples,
            self.learnt,
            self.world,
            held_out=None if self.training is None else self.reference,
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
