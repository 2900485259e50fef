"""What one process of a neighbour search does: pieces of work, each of which may be done by anybody, and twice.

    extract    images start .. stop - 1 of a dataset -> their features, kept; returns their mean and scatter
    gather     of a dataset with more images than subsets can use -> the features of those that they use, kept
    redraw     a target's images drawn again -> how that moves its cube
    measure    some subsets of a dataset against the cubes of a target -> means per image: sums, never features
    paper      a whole pair by the published algorithm -> its curves
    moments    images start .. stop - 1 of a dataset -> first and second moments, kept
    law        a dataset's moments, merged in order -> mean and factor of the covariance, kept in their place
    distances  a pair -> Fréchet and kernel distance

Everything that is kept is kept in the feature cache, which all processes share, under names that say all that it
depends on. So nothing is lost but what was in somebody's hands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cluster.world import World
from shards.dataset import ShardDataset
from spider.errors import SpiderError
from spider.judge.embed.cache import Arrays, FeatureCache, FeatureKey, Features
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.features import Span, extract_features, pieces_of
from spider.judge.embed.images import DrawnImages, NumberedImages, close_files
from spider.judge.embed.load import Spec, load_same_embedding
from spider.judge.metrics.frechet import NormalLaw, law_distance
from spider.judge.metrics.kid import kid
from spider.judge.metrics.moments import Moments, moments_of
from spider.judge.sid.cube import Cube, FeatureSummary, rows_of_subsets, summarise_part
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.paper import paper_curves
from spider.judge.sid.robust import (
    IMAGES,
    REPLICATES,
    SUBSETS,
    Measuring,
    RedrawnCube,
    Rows,
    redraw_cube,
    stretch_of_target,
)
from spider.judge.sid.sums import Slope
from spider.precision import exact_float32
from spider.threads import own_threads

# A tenth of the usual number: here it stands beside CSID for comparison, and would take most of the time.
KID_SUBSETS = 10

_DATASETS_IN_MEMORY = 4  # at most 10,000 images of each: 80 MB under Inception
_TARGETS_IN_MEMORY = 2


@dataclass(frozen=True)
class NeighborPlan:
    """What every worker is told, once.

    Attributes:
        images: the datasets by fingerprint.
        embedding: its name, protocol and weights file, as `load_embedding` takes them.
        digest: its digest.
        cache: folder of the feature cache, on storage that all workers share.
        kernels: of the curves.
        seed: of everything drawn.
    """

    images: Mapping[str, NumberedImages]
    embedding: Spec
    digest: str
    cache: Path
    kernels: tuple[Kernel, ...]
    seed: int

    def key(self, dataset: str, output: str, span: Span | None = None) -> FeatureKey:
        """What the cache calls something of these images of a dataset; None: of all."""
        return FeatureKey(dataset, self.digest, *(span or (0, len(self.images[dataset]))), output)

    @property
    def sample(self) -> str:
        """The features that subsets use, of a dataset that has more of them."""
        return f"sample-{self.seed}"

    def rows(self, dataset: str) -> Rows:
        """Which images of a dataset each subset takes, int64 [SUBSETS, size]."""
        count = len(self.images[dataset])
        return rows_of_subsets(self.seed, SUBSETS, min(IMAGES, count), count)

    def uses_all(self, dataset: str) -> bool:
        """Whether the subsets use every image."""
        return len(self.images[dataset]) <= SUBSETS * IMAGES


@dataclass(frozen=True)
class DatasetSummary:
    """All that screening needs to know of a dataset, kept when its features are.

    Attributes:
        features: their mean and scatter.
        colour: whether its images have any.
    """

    features: FeatureSummary
    colour: bool

    @classmethod
    def load(cls, cache: FeatureCache, plan: NeighborPlan, dataset: str) -> DatasetSummary | None:
        """What is kept, if anything."""
        kept = cache.load(plan.key(dataset, "summary"))
        if kept is None:
            return None
        features = FeatureSummary(len(plan.images[dataset]), kept["mean"], kept["scatter"])
        return cls(features, bool(kept["colour"]))

    def store(self, cache: FeatureCache, plan: NeighborPlan, dataset: str) -> None:
        """Keep it."""
        features = self.features
        cache.store(
            plan.key(dataset, "summary"),
            mean=features.mean,
            scatter=features.scatter,
            colour=np.array(self.colour, np.uint8),
        )


@dataclass(frozen=True)
class Measured:
    """What `measure` returns.

    Attributes:
        means: float64 [K, S, size] of each subset.
        slope: if subset 0 is among them.
    """

    means: list[Tensor]
    slope: Slope | None


class NeighborWorker:
    """The methods are the pieces of work; datasets are named by fingerprint."""

    def __init__(self, plan: NeighborPlan) -> None:
        """On the GPU that this process sees, or on the CPU."""
        self._plan = plan
        self._cache = FeatureCache(plan.cache)
        self._world = World.single("cuda" if torch.cuda.is_available() else "cpu")
        self._reading: str | None = None
        # Caches of this worker's own, rather than of the class
        self._features = lru_cache(_DATASETS_IN_MEMORY)(self._load_features)
        self._measuring = lru_cache(_TARGETS_IN_MEMORY)(self._make_measuring)
        self._law = lru_cache(_DATASETS_IN_MEMORY)(self._load_law)

    @cached_property
    def _network(self) -> Embedding:
        return load_same_embedding(self._plan.embedding, self._plan.digest, self._world.device)

    def extract(self, dataset: str, start: int, stop: int) -> FeatureSummary:
        """Extract features if they are not there; summarise them."""
        return summarise_part(self._features_of(dataset, (start, stop)))

    def gather(self, dataset: str) -> None:
        """Keep the features that subsets use apart from the others."""
        numbers = np.unique(self._plan.rows(dataset))
        parts = [
            piece[numbers[(numbers >= start) & (numbers < stop)] - start]
            for (start, stop), piece in self._pieces(dataset)
        ]
        self._cache.store(self._plan.key(dataset, self._plan.sample), rows=np.concatenate(parts), numbers=numbers)

    def redraw(self, target: str) -> RedrawnCube:
        """Draw the target's images again."""
        pieces = (piece for _, piece in self._pieces(target))
        with exact_float32(), own_threads(self._world.device) as each:
            return redraw_cube(self._cube(target), pieces, self._plan.seed, REPLICATES, self._world.device, each)

    def measure(self, target: str, dataset: str, subsets: Sequence[int]) -> Measured:
        """Measure these subsets of a dataset against the target's cubes."""
        numbers, features = self._features(dataset)
        measuring, rows = self._measuring(target), self._plan.rows(dataset)
        stretch = stretch_of_target(self._cube(target)) if dataset == target else 1.0

        def images_of(subset: int) -> Features:
            images: Features = features[np.searchsorted(numbers, rows[subset])]
            return images

        with exact_float32(), own_threads(self._world.device) as each:
            means = measuring.means(each, subsets, images_of, stretch)
            slope = measuring.slope(images_of(0), stretch) if 0 in subsets else None
        return Measured(means, slope)

    def paper(self, target: str, dataset: str, name: str) -> list[SidCurve]:
        """Curves by the published algorithm."""
        plan = self._plan
        sets = {name: self._all_features(dataset)}
        device = self._world.device
        return paper_curves(self._all_features(target), sets, plan.kernels, seed=plan.seed, device=device)[name]

    def moments(self, dataset: str, start: int, stop: int) -> None:
        """Sum first and second moments."""
        features = np.concatenate([piece for _, piece in self._pieces(dataset, (start, stop))])
        with own_threads(self._world.device):
            found = moments_of(features, self._world)
        key = self._plan.key(dataset, "moments", (start, stop))
        self._cache.store(key, sum=found.sum.numpy(), outer=found.outer.numpy())

    def law(self, dataset: str, spans: Sequence[Span]) -> None:
        """Merge what `moments` kept, in this order."""
        key = self._plan.key(dataset, "law")
        if self._cache.load(key) is None:  # else who did this died before it could say so
            with own_threads(self._world.device):
                law = NormalLaw.of(reduce(add, (self._moments_of(dataset, span) for span in spans)))
            self._cache.store(key, mean=law.mean.numpy(), factor=law.factor.numpy())
        for span in spans:
            self._cache.discard(self._plan.key(dataset, "moments", span))

    def distances(self, target: str, dataset: str) -> tuple[float, float]:
        """Fréchet and kernel distance."""
        (_, source), (_, reference) = self._features(dataset), self._features(target)
        with own_threads(self._world.device):  # the sums of torch's own threads depend on how many there are
            kernel = kid(source, reference, self._world, seed=self._plan.seed, subsets=KID_SUBSETS)
            return law_distance(self._law(dataset), self._law(target)), kernel.value

    def _pieces(self, dataset: str, span: Span | None = None) -> Iterator[tuple[Span, Features]]:
        """The features of a dataset, or of some of its images, in order."""
        for piece in pieces_of(*(span or (0, len(self._plan.images[dataset])))):
            yield piece, self._features_of(dataset, piece)

    def _features_of(self, dataset: str, piece: Span) -> Features:
        """As they are kept; extracted if they are not, or not whole."""
        kept = self._cache.load(self._plan.key(dataset, "features", piece))
        if kept is not None and len(kept["rows"]) == piece[1] - piece[0]:
            rows: Features = kept["rows"]
            return rows
        images, (start, stop) = self._plan.images[dataset], piece
        if self._reading is not None and self._reading != dataset:
            close_files(self._plan.images[self._reading])  # hundreds of datasets have more files than may be open
        self._reading = dataset
        # A GPU waits for nobody's decoding; on a CPU there is no core to spare. What makes images is not disturbed.
        from_files = isinstance(images, ShardDataset | DrawnImages)
        readers = torch.get_num_threads() if from_files and self._world.device.type == "cuda" else 0
        return extract_features(
            images, self._network, self._world, start=start, stop=stop, cache=self._cache, readers=readers
        )

    def _all_features(self, dataset: str) -> Features:
        features: Features = np.concatenate([piece for _, piece in self._pieces(dataset)])
        return features

    def _load_features(self, dataset: str) -> tuple[Rows, Features]:
        """Numbers, ascending, and features of the images that subsets use."""
        if self._plan.uses_all(dataset):
            return np.arange(len(self._plan.images[dataset])), self._all_features(dataset)
        sample = self._kept(dataset, self._plan.sample)
        return sample["numbers"], sample["rows"]

    def _load_law(self, dataset: str) -> NormalLaw:
        law = self._kept(dataset, "law")
        return NormalLaw(torch.from_numpy(law["mean"]), torch.from_numpy(law["factor"]))

    def _moments_of(self, dataset: str, span: Span) -> Moments:
        kept = self._kept(dataset, "moments", span)
        return Moments(span[1] - span[0], torch.from_numpy(kept["sum"]), torch.from_numpy(kept["outer"]))

    def _make_measuring(self, target: str) -> Measuring:
        return Measuring(self._cube(target), self._plan.kernels, self._plan.seed, self._world.device)

    def _cube(self, target: str) -> Cube:
        kept = DatasetSummary.load(self._cache, self._plan, target)
        if kept is None:
            raise _gone(self._plan, target, "summary")
        return Cube(kept.features)

    def _kept(self, dataset: str, output: str, span: Span | None = None) -> Arrays:
        arrays = self._cache.load(self._plan.key(dataset, output, span))
        if arrays is None:
            raise _gone(self._plan, dataset, output)
        return arrays


def _gone(plan: NeighborPlan, dataset: str, output: str) -> SpiderError:
    name = plan.images[dataset].name
    return SpiderError(
        f"{name}: its {output} is damaged or gone from {plan.cache}, which must be storage that all workers share; "
        "the same command makes it again"
    )
