"""A neighbour search, stage by stage, by any number of workers.

    summaries    every dataset: features extracted piece by piece, their mean and scatter merged in order
    screened     every pair: curves in closed form, from these alone
    curves       pairs: subset by subset, put together here
    distances    pairs: Fréchet and kernel distance

What a piece of work returns does not depend on who does it, and what comes back is put together in the order of its
numbers; so the result is the same for any number of workers. Every stage begins with what is kept of an earlier start,
and ends with an error that names all that failed for good.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cluster.workers import Done, Piece, Workers
from neighbors.worker import DatasetSummary, Measured, NeighborPlan
from spider.judge.embed.cache import FeatureCache
from spider.judge.embed.features import PIECE, Span, pieces_of
from spider.judge.embed.images import close_files, has_colour
from spider.judge.pieces import do_pieces, require_seen
from spider.judge.sid.choices import Mode
from spider.judge.sid.cube import PAPER_RADII, Cube, FeatureSummary
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.oracle import closed_form
from spider.judge.sid.robust import SUBSETS, Combining, ImageMeans, RedrawnCube
from spider.judge.sid.sums import Slope
from spider.precision import exact_float32
from spider.threads import own_threads

_SUBSETS_AT_A_TIME = 5  # of a pair, when there are others to do the rest
_IMAGES_OF_MOMENTS = 16 * PIECE  # summed by one worker: 34 MB of moments for each of these, under Inception
_REVISION = 1  # counts changes of what is kept of pairs that their names do not tell


class Pair(NamedTuple):
    """A source as seen from a target: fingerprints, and the source's name, which addresses its redrawn images."""

    target: str
    source: str
    name: str


class NeighborSearch:
    """The stages of one search."""

    def __init__(self, plan: NeighborPlan, workers: Workers, mode: Mode, *, progress: bool) -> None:
        """A search by these workers; `progress` shows a bar for every stage."""
        self._plan, self._workers, self._mode, self._progress = plan, workers, mode, progress
        self._cache = FeatureCache(plan.cache)

    def summaries(self) -> dict[str, DatasetSummary]:
        """What is known of every dataset as a whole; its features are extracted if that is not kept."""
        kept = {dataset: DatasetSummary.load(self._cache, self._plan, dataset) for dataset in self._plan.images}
        found = {dataset: summary for dataset, summary in kept.items() if summary is not None}
        missing = {dataset: self._spans(dataset) for dataset in self._plan.images if dataset not in found}
        parts: dict[str, dict[Span, FeatureSummary]] = {dataset: {} for dataset in missing}
        for dataset, span, part in self._extract(missing):
            parts[dataset][span] = part
            if len(parts[dataset]) == len(missing[dataset]):
                of_dataset, images = parts.pop(dataset), self._plan.images[dataset]
                whole = reduce(add, (of_dataset[span] for span in missing[dataset])).checked(images.name)
                found[dataset] = DatasetSummary(whole, has_colour(images))
                close_files(images)
                found[dataset].store(self._cache, self._plan, dataset)
        return {dataset: found[dataset] for dataset in self._plan.images}

    def screened(self, pairs: Sequence[Pair], summaries: Mapping[str, DatasetSummary]) -> dict[Pair, list[SidCurve]]:
        """Curves in closed form."""
        cubes = {target: Cube(summaries[target].features) for target in dict.fromkeys(pair.target for pair in pairs)}
        kernels = self._plan.kernels
        found = {pair: closed_form(cubes[pair.target], summaries[pair.source].features, kernels) for pair in pairs}
        return _finite(found)

    def curves(self, pairs: Sequence[Pair], summaries: Mapping[str, DatasetSummary]) -> dict[Pair, list[SidCurve]]:
        """Curves in the search's mode."""
        found = {pair: curves for pair in pairs if (curves := self._kept_curves(pair)) is not None}
        missing = [pair for pair in pairs if pair not in found]
        if missing:
            self._prepare(missing)
            make = self._paper_curves if self._mode == "paper" else self._robust_curves
            for pair, curves in make(missing, summaries):
                found[pair] = curves
                self._keep_curves(pair, curves)
        return _finite({pair: found[pair] for pair in pairs})

    def distances(self, pairs: Sequence[Pair]) -> dict[Pair, tuple[float, float]]:
        """Fréchet and kernel distance of each."""
        found = {}
        for pair in pairs:
            kept = self._cache.load(self._plan.key(pair.source, self._output("distances", pair)))
            if kept is not None:
                found[pair] = (float(kept["frechet"]), float(kept["kernel"]))
        missing = [pair for pair in pairs if pair not in found]
        if missing:
            self._prepare(missing)
            self._make_laws(missing)
            pieces = {
                Piece(f"distances of {self._words(pair)}", "distances", (pair.target, pair.source)): pair
                for pair in missing
            }
            for done in self._do(pieces, "other distances", "pair"):
                pair, (frechet, kernel) = pieces[done.piece], done.value
                found[pair] = (frechet, kernel)
                key = self._plan.key(pair.source, self._output("distances", pair))
                self._cache.store(key, frechet=np.array(frechet), kernel=np.array(kernel))
        return {pair: found[pair] for pair in pairs}

    def _extract(self, wanted: Mapping[str, list[Span]]) -> Iterator[tuple[str, Span, FeatureSummary]]:
        """Features of these pieces, and the summary of each."""
        pieces = {
            Piece(f"features of {self._span_words(dataset, span)}", "extract", (dataset, *span)): (dataset, span)
            for dataset, spans in wanted.items()
            for span in spans
        }
        images = {piece: stop - start for piece, (_, (start, stop)) in pieces.items()}
        for done in self._do(pieces, "features", "image", images):
            dataset, span = pieces[done.piece]
            require_seen(self._cache, self._plan.key(dataset, "features", span))
            yield dataset, span, done.value

    def _prepare(self, pairs: Sequence[Pair]) -> None:
        """The features of these datasets as the stages after screening need them."""
        datasets = list(dict.fromkeys(dataset for pair in pairs for dataset in pair[:2]))
        lost = {
            dataset: [span for span in self._spans(dataset) if not self._has(dataset, "features", span)]
            for dataset in datasets
        }
        for _ in self._extract(lost):
            pass
        large = [d for d in datasets if not (self._plan.uses_all(d) or self._has(d, self._plan.sample))]
        pieces = [Piece(f"sample of {self._name(dataset)}", "gather", (dataset,)) for dataset in large]
        self._exhaust(pieces, "samples", "dataset")

    def _make_laws(self, pairs: Sequence[Pair]) -> None:
        """Moments of these datasets, and the normal laws that have them."""
        datasets = [d for d in dict.fromkeys(d for pair in pairs for d in pair[:2]) if not self._has(d, "law")]
        spans = {
            dataset: [
                (start, min(start + _IMAGES_OF_MOMENTS, len(self._plan.images[dataset])))
                for start in range(0, len(self._plan.images[dataset]), _IMAGES_OF_MOMENTS)
            ]
            for dataset in datasets
        }
        parts = [
            Piece(f"moments of {self._span_words(dataset, span)}", "moments", (dataset, *span))
            for dataset in datasets
            for span in spans[dataset]
            if not self._has(dataset, "moments", span)
        ]
        self._exhaust(parts, "moments", "part")
        laws = [Piece(f"covariance of {self._name(dataset)}", "law", (dataset, spans[dataset])) for dataset in datasets]
        self._exhaust(laws, "covariances", "dataset")

    def _robust_curves(
        self, pairs: Sequence[Pair], summaries: Mapping[str, DatasetSummary]
    ) -> Iterator[tuple[Pair, list[SidCurve]]]:
        """Each pair as soon as all its subsets are in."""
        at_a_time = SUBSETS if self._workers.count == 1 else _SUBSETS_AT_A_TIME
        groups = [tuple(range(s, min(s + at_a_time, SUBSETS))) for s in range(0, SUBSETS, at_a_time)]
        targets = {
            target: _Target(Cube(summaries[target].features), [pair for pair in pairs if pair.target == target])
            for target in dict.fromkeys(pair.target for pair in pairs)
        }

        def pieces() -> Iterator[Piece]:
            for target, about in targets.items():
                yield Piece(f"redrawn {self._name(target)}", "redraw", (target,))
                for dataset in about.datasets(target):
                    words = f"{self._name(dataset)} about {self._name(target)}"
                    for group in groups:
                        name = f"subsets {group[0]} to {group[-1]} of {words}"
                        yield Piece(name, "measure", (target, dataset, group))

        total = sum(1 + len(about.datasets(target)) * len(groups) for target, about in targets.items())
        for done in self._do(pieces(), "signed distance", "piece", total=total):
            about = targets[done.piece.arguments[0]]
            about.take(done)
            yield from about.finished(self._plan)
            if not about.waiting:
                about.forget()

    def _paper_curves(
        self, pairs: Sequence[Pair], summaries: Mapping[str, DatasetSummary]
    ) -> Iterator[tuple[Pair, list[SidCurve]]]:
        pieces = {Piece(f"curves of {self._words(pair)}", "paper", tuple(pair)): pair for pair in pairs}
        for done in self._do(pieces, "signed distance", "pair"):
            yield pieces[done.piece], done.value

    def _do(
        self,
        pieces: Iterable[Piece],
        title: str,
        unit: str,
        sizes: Mapping[Piece, int] | None = None,
        *,
        total: int | None = None,
    ) -> Iterator[Done]:
        return do_pieces(self._workers, pieces, title, unit, sizes, total=total, shown=self._progress)

    def _exhaust(self, pieces: Sequence[Piece], title: str, unit: str) -> None:
        for _ in self._do(pieces, title, unit):
            pass

    def _spans(self, dataset: str) -> list[Span]:
        return pieces_of(0, len(self._plan.images[dataset]))

    def _has(self, dataset: str, output: str, span: Span | None = None) -> bool:
        return self._cache.has(self._plan.key(dataset, output, span))

    def _name(self, dataset: str) -> str:
        return self._plan.images[dataset].name

    def _words(self, pair: Pair) -> str:
        return f"{pair.name} about {self._name(pair.target)}"

    def _span_words(self, dataset: str, span: Span) -> str:
        return f"{self._name(dataset)}, images {span[0]} to {span[1] - 1}"

    def _output(self, what: str, pair: Pair) -> str:
        """What the cache calls something of a pair: a digest of all that it depends on."""
        plan = self._plan
        depends: list[object] = [pair.target, plan.seed, _REVISION]
        if what == "curves":
            depends += [pair.name, self._mode, [kernel.label for kernel in plan.kernels]]
        return f"{what}-{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]}"

    def _keep_curves(self, pair: Pair, curves: Sequence[SidCurve]) -> None:
        columns = {
            name: np.stack([np.asarray(value) for curve in curves if (value := getattr(curve, name)) is not None])
            for name in _CURVE_ARRAYS
            if getattr(curves[0], name) is not None
        }
        self._cache.store(self._plan.key(pair.source, self._output("curves", pair)), **columns)

    def _kept_curves(self, pair: Pair) -> list[SidCurve] | None:
        kept = self._cache.load(self._plan.key(pair.source, self._output("curves", pair)))
        if kept is None:
            return None
        return [
            SidCurve(
                kernel,
                self._mode,
                np.array(PAPER_RADII),
                kept["values"][k],
                kept["stderr"][k],
                float(kept["csid_stderr"][k]),
                kept["csid_replicates"][k] if "csid_replicates" in kept else None,
            )
            for k, kernel in enumerate(self._plan.kernels)
        ]


_CURVE_ARRAYS = ("values", "stderr", "csid_stderr", "csid_replicates")


@dataclass
class _Target:
    """The pairs of one target, while their subsets come in.

    Attributes:
        cube: the target's.
        waiting: pairs that have no curves yet.
        means: by dataset and subset.
        slopes: by dataset.
    """

    cube: Cube
    waiting: list[Pair]
    means: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    slopes: dict[str, Slope] = field(default_factory=dict)
    redrawn: RedrawnCube | None = None
    combining: Combining | None = None

    def datasets(self, target: str) -> list[str]:
        """What is measured, the target first."""
        return list(dict.fromkeys([target, *(pair.source for pair in self.waiting)]))

    def take(self, done: Done) -> None:
        """Take what came of a piece."""
        if isinstance(done.value, RedrawnCube):
            self.redrawn = done.value
        elif isinstance(done.value, Measured):
            _, dataset, subsets = done.piece.arguments
            self.means.setdefault(dataset, {}).update(zip(subsets, done.value.means, strict=True))
            if done.value.slope is not None:
                self.slopes[dataset] = done.value.slope

    def finished(self, plan: NeighborPlan) -> Iterator[tuple[Pair, list[SidCurve]]]:
        """Curves of the pairs for which everything is there now."""
        ready = [pair for pair in self.waiting if self._is_whole(pair.target) and self._is_whole(pair.source)]
        if self.redrawn is None or not ready:
            return
        with exact_float32(), own_threads(torch.device("cpu")) as each:
            if self.combining is None:
                target = self._image_means(plan, ready[0].target)
                self.combining = Combining(self.cube, plan.kernels, plan.seed, target, self.redrawn, each)
            for pair in ready:
                yield pair, self.combining.curves(each, pair.name, self._image_means(plan, pair.source))
                self.waiting.remove(pair)
        for dataset in {pair.source for pair in ready} - {pair.source for pair in self.waiting} - {ready[0].target}:
            self.means[dataset].clear()
            del self.slopes[dataset]

    def forget(self) -> None:
        """Let go of what no pair waits for."""
        self.means.clear()
        self.slopes.clear()
        self.redrawn = self.combining = None

    def _is_whole(self, dataset: str) -> bool:
        return len(self.means.get(dataset, ())) == SUBSETS

    def _image_means(self, plan: NeighborPlan, dataset: str) -> ImageMeans:
        means = [self.means[dataset][subset] for subset in range(SUBSETS)]
        return ImageMeans.of(plan.rows(dataset), means, self.slopes[dataset])


def _finite(curves: dict[Pair, list[SidCurve]]) -> dict[Pair, list[SidCurve]]:
    """The same. Raises SpiderError if a kernel left the range of the numbers."""
    for pair, of_pair in curves.items():
        for curve in of_pair:
            curve.require_finite(pair.name)
    return curves
