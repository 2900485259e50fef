"""Which datasets are friendly neighbours of a target, or each of each: signed distance beside FID and KID, and a pick.

Every dataset goes through the embedding once, and what comes out is kept. All sources of a target are compared under
the same points and the same target images, so that differences between sources are known better than their values. With
many candidates, screening from means and variances says which of them get the full measure.

Here, or on a Ray cluster: the same work in the same pieces, so the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from cluster.workers import hired
from neighbors.matrix_report import MatrixReport
from neighbors.pictures import draw_picks
from neighbors.places import Judged
from neighbors.report import NeighborReport, NeighborRow
from neighbors.request import NeighborOptions, require_pairs, require_sources
from neighbors.search import NeighborSearch, Pair
from neighbors.worker import KID_SUBSETS, DatasetSummary, NeighborPlan, NeighborWorker
from spider import weights
from spider.data import open_images
from spider.errors import SpiderUsageError
from spider.files import cache_directory
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.images import DrawnImages, NumberedImages
from spider.judge.embed.load import load_embedding
from spider.judge.metrics.frechet import few_images
from spider.judge.metrics.registry import METRICS
from spider.judge.sid.choices import Mode
from spider.judge.sid.curve import POINTS, SidCurve
from spider.judge.sid.kernels import parse_kernel
from spider.judge.sid.paper import IMAGES as PAPER_IMAGES
from spider.judge.sid.rules import PAPER, RULES
from spider.judge.sid.selection import Place
from untrusted.counts import counted

Images = NumberedImages | str | Path


def neighbors(
    target: Images,
    sources: Sequence[Images] | Mapping[str, Images],
    *,
    out: Path | str,
    options: NeighborOptions | None = None,
) -> NeighborReport:
    """Rank sources by their signed distance to the target and write what `neighbors.report` shows to `out`.

    Args:
        target: a dataset, or a place that `spider.data.open_images` opens.
        sources: the same, several; as a mapping, by the names to use for them.
        out: the folder to write.
        options: how.

    Raises:
        SpiderUsageError: two datasets of one name; too few images.
        SpiderError, ShardsError: weights, images or features that are missing or damaged; workers failed.
        ClusterError: no Ray cluster there.
    """
    options = options or NeighborOptions()
    network = _load(options)
    opened = _open(target, options)
    named = _name_and_open(sources, options, "two sources are")
    searcher = _Searcher(options, network, {opened.name: opened}, named)
    (report,) = searcher.reports({opened.name: list(named)})
    report.write(Path(out))
    searcher.draw_picks(report, Path(out))
    return report


def neighbor_matrix(
    datasets: Sequence[Images] | Mapping[str, Images], *, out: Path | str, options: NeighborOptions | None = None
) -> MatrixReport:
    """Every dataset as a target, all others as its sources: each ordered pair once. As `neighbors` for the rest.

    Writes what `neighbors.matrix_report` shows.
    """
    options = options or NeighborOptions()
    network = _load(options)
    named = _name_and_open(datasets, options, "two datasets are")
    require_pairs(named)
    searcher = _Searcher(options, network, named, named)
    report = MatrixReport(searcher.reports({name: [other for other in named if other != name] for name in named}))
    report.write(Path(out))
    for target, of_target in report.reports.items():
        searcher.draw_picks(of_target, Path(out) / target)
    return report


class _Searcher:
    """Targets and sources by name, and what one search finds about them."""

    def __init__(
        self,
        options: NeighborOptions,
        network: Embedding,
        targets: Mapping[str, NumberedImages],
        sources: Mapping[str, NumberedImages],
    ) -> None:
        self._options, self._network, self._opened_targets, self._opened = options, network, targets, sources
        self._targets = {name: _draw(images, options) for name, images in targets.items()}
        self._sources = {name: _draw(images, options) for name, images in sources.items()}
        drawn = {images.fingerprint: images for images in (*self._targets.values(), *self._sources.values())}
        if options.mode == "paper":
            _require_paper_images(self._targets, self._sources)
        self._plan = NeighborPlan(
            drawn,
            (options.embedding, options.protocol, _weights_file(options)),
            network.digest,
            Path(options.cache or cache_directory("features")).absolute(),
            tuple(parse_kernel(order) for order in options.orders),
            options.seed,
        )

    def reports(self, sources_of: Mapping[str, Sequence[str]]) -> list[NeighborReport]:
        """A report for each target and its sources."""
        options = self._options
        pairs = {
            target: [Pair(self._targets[target].fingerprint, self._sources[name].fingerprint, name) for name in sources]
            for target, sources in sources_of.items()
        }
        every = [pair for of_target in pairs.values() for pair in of_target]
        curves: dict[Pair, list[SidCurve]] = {}
        distances: dict[Pair, tuple[float, float]] = {}
        with hired(partial(NeighborWorker, self._plan), options.ray, options.workers) as workers:
            search = NeighborSearch(self._plan, workers, cast(Mode, options.mode), progress=options.progress)
            summaries = search.summaries()
            screened = search.screened(every, summaries)
            if options.mode != "screen":
                chosen = [
                    pair
                    for of_target in pairs.values()
                    for pair in self._shortlist(Judged(of_target, summaries, screened, {}))
                ]
                curves, distances = search.curves(chosen, summaries), search.distances(chosen)
        return [
            self._report(target, of_target, summaries, screened, curves, distances)
            for target, of_target in pairs.items()
        ]

    def draw_picks(self, report: NeighborReport, out: Path) -> None:
        """Write picks.png of a target."""
        draw_picks(out / "picks.png", report, self._targets[report.target], self._sources)

    def _shortlist(self, known: Judged) -> list[Pair]:
        """The nearest by screening: under the rule, and by each order those nearest to 0, of either sign.

        Near 0 screening is not sure of the sign. Those that a rule drops come last.
        """
        orders = range(len(self._plan.kernels))
        ranks = [known.places(self._options, "abs_csid", order) for order in orders]
        if self._options.rule != PAPER:
            ranks.append(known.places(self._options, self._options.rule))
        return [pair for pair in known.pairs if any(r[pair.name].rank <= self._options.shortlist for r in ranks)]

    def _report(
        self,
        target: str,
        pairs: Sequence[Pair],
        summaries: Mapping[str, DatasetSummary],
        screened: Mapping[Pair, list[SidCurve]],
        curves: Mapping[Pair, list[SidCurve]],
        distances: Mapping[Pair, tuple[float, float]],
    ) -> NeighborReport:
        options, drawn_target = self._options, self._targets[target]
        measured = [pair for pair in pairs if pair in curves] or list(pairs)
        known = {pair: curves.get(pair, screened[pair]) for pair in pairs}
        judged = Judged(measured, summaries, known, distances)
        orders = range(len(self._plan.kernels))
        by_order = [judged.places(options, options.rule, order) for order in orders]
        by_rule = {rule: judged.places(options, rule) for rule in RULES}
        places = {name: [of_order[name] for of_order in by_order] for name in by_order[0]}
        left_out = [pair for pair in pairs if pair not in measured]
        if left_out:
            by_screening = Judged(pairs, summaries, screened, {}).places(options, options.rule)
            for pair in sorted(left_out, key=lambda pair: by_screening[pair.name].rank):
                place = by_screening[pair.name]
                why = f"not in the shortlist of {options.shortlist}: by screening {place.why}"
                places[pair.name] = [Place(len(places) + 1, False, why, takes_part=place.takes_part)] * len(by_order)
        by_name = {pair.name: pair for pair in pairs}
        rows = [
            NeighborRow(
                name,
                len(self._sources[name]),
                of_source,
                known[by_name[name]],
                screened[by_name[name]],
                fd=distances[by_name[name]][0] if by_name[name] in distances else None,
                kd=distances[by_name[name]][1] if by_name[name] in distances else None,
                by_rule={rule: found[name] for rule, found in by_rule.items() if name in found},
            )
            for name, of_source in places.items()
        ]
        sources = {pair.name: _dataset_json(self._opened[pair.name], self._sources[pair.name]) for pair in pairs}
        few = {f"target {target}": drawn_target, **{pair.name: self._sources[pair.name] for pair in measured}}
        return NeighborReport(
            target=target,
            embedding=_embedding_json(self._network),
            rows=rows,
            labels={"fd": METRICS["fid"].label_under(self._network), "kd": METRICS["kid"].label_under(self._network)},
            protocol={
                **options.choices,
                "kid_subsets": KID_SUBSETS if distances else None,
                "target": _dataset_json(self._opened_targets[target], drawn_target),
                "sources": sources,
            },
            warnings=[*_few(few), *(_warnings(few, self._network) if distances else [])],
        )


def _load(options: NeighborOptions) -> Embedding:
    return load_embedding(options.embedding, protocol=options.protocol, weights=_path(options.weights))


def _path(place: Path | str | None) -> Path | None:
    return None if place is None else Path(place)


def _weights_file(options: NeighborOptions) -> Path | None:
    """Where the weights are, whatever the present directory and the caches of other machines are."""
    file = weights.of_embedding(options.embedding, options.weights)
    return None if file is None else file.absolute()


def _open(images: Images, options: NeighborOptions) -> NumberedImages:
    return open_images(images, progress=options.progress) if isinstance(images, str | Path) else images


def _name_and_open(
    datasets: Sequence[Images] | Mapping[str, Images], options: NeighborOptions, two_are: str
) -> dict[str, NumberedImages]:
    """The datasets by name, which must differ."""
    require_sources(datasets)
    if isinstance(datasets, Mapping):
        return {name: _open(images, options) for name, images in datasets.items()}
    opened: dict[str, NumberedImages] = {}
    for images in datasets:
        dataset = _open(images, options)
        if dataset.name in opened:
            raise SpiderUsageError(f"{two_are} named {dataset.name}; give names: NAME=PLACE")
        opened[dataset.name] = dataset
    return opened


def _draw(dataset: NumberedImages, options: NeighborOptions) -> NumberedImages:
    count = options.images
    return dataset if count is None or count >= len(dataset) else DrawnImages(dataset, count, options.seed)


def _require_paper_images(*datasets: Mapping[str, NumberedImages]) -> None:
    """Refuse before any work is done what the published algorithm would refuse after it."""
    for name, images in ((name, images) for of_kind in datasets for name, images in of_kind.items()):
        if len(images) < PAPER_IMAGES:
            raise SpiderUsageError(
                f"{name}: {counted(len(images), 'image')}; mode paper needs {PAPER_IMAGES}, mode robust does not"
            )


def _few(datasets: Mapping[str, NumberedImages]) -> list[str]:
    """Which signed distances are from fewer images than one subset has."""
    few = {name: images for name, images in datasets.items() if len(images) < POINTS}
    return [f"CSID, {_told(few)}: a subset has {POINTS}; uncertain, whatever the rank"] if few else []


def _warnings(datasets: Mapping[str, NumberedImages], network: Embedding) -> list[str]:
    """Which Fréchet distances are from too few images."""
    label = METRICS["fid"].label_under(network)
    found = {name: few_images(len(images), network.dim) for name, images in datasets.items()}
    alike = {why: {name: datasets[name] for name in found if found[name] == why} for why in found.values() if why}
    return [f"{label}, {_told(few)}: {why}" for why, few in alike.items()]


def _told(datasets: Mapping[str, NumberedImages]) -> str:
    return ", ".join(f"{name} ({counted(len(images), 'image')})" for name, images in datasets.items())


def _embedding_json(network: Embedding) -> dict[str, Any]:
    return {key: getattr(network, key) for key in ("name", "protocol", "label", "dim", "digest")}


def _dataset_json(dataset: NumberedImages, drawn: NumberedImages) -> dict[str, Any]:
    return {
        "path": getattr(dataset, "path", None),
        "fingerprint": dataset.fingerprint,
        "count": len(dataset),
        "measured": len(drawn),
    }
