"""Which datasets are friendly neighbours of a target: signed distance of each, beside FID and KID, and a pick.

Features are extracted once per dataset (and kept, with a cache); every source is compared with the target under the
same points and the same target images, so that differences between sources are known better than their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cluster.world import World
from spider.data import open_images
from spider.embed.cache import FeatureCache, Features
from spider.embed.embedding import Embedding
from spider.embed.features import extract_features
from spider.embed.images import DrawnImages, NumberedImages, has_colour
from spider.embed.load import load_embedding
from spider.errors import SpiderUsageError
from spider.metrics.frechet import frechet_distance, too_few_images
from spider.metrics.kid import kid
from spider.metrics.moments import moments_of
from spider.metrics.registry import METRICS
from spider.sid.curve import SidCurve, difference_stderr
from spider.sid.estimate import MODES, curves_of_mode
from spider.sid.kernels import Kernel, parse_kernel
from spider.sid.selection import Candidate, select
from sweeps.neighbor_report import NeighborReport, NeighborRow

Images = NumberedImages | str | Path

# A tenth of the usual number: here it stands beside CSID for comparison, and would take most of the time.
KID_SUBSETS = 10


def neighbors(
    target: Images,
    sources: Sequence[Images] | Mapping[str, Images],
    *,
    out: Path | str,
    embedding: str = "inception",
    protocol: str | None = None,
    weights: Path | None = None,
    orders: Sequence[Kernel | float | str] = (-1.0,),
    mode: str = "robust",
    images: int | None = None,
    seed: int = 0,
    keep_negative: bool = False,
    keep_gray: bool = False,
    picks: int = 3,
    cache: Path | None = None,
    world: World | None = None,
    progress: bool = True,
) -> NeighborReport:
    """Rank sources by their signed distance to the target and write what the module shows to `out`. All ranks.

    Ranks share the extraction of features and the kernel distance; curves are computed by each.

    Args:
        target: a dataset, or a place that `spider.data.open_images` opens.
        sources: the same, several; as a mapping, by the names to use for them.
        out: the folder to write.
        embedding: `inception`, or `offline`, which needs no weights.
        protocol: the resize rule of `inception`.
        weights: a weights file for `inception`.
        orders: kernel orders, as `spider.sid.kernels.parse_kernel` takes them; the first one ranks.
        mode: `robust`; `paper`, the published algorithm; `screen`, from moments alone, without FID and KID.
        images: at most this many of each dataset, drawn by `seed`; None: all.
        seed: of everything drawn.
        keep_negative: let sources less diverse than the target be friendly.
        keep_gray: let gray sources of a colour target be friendly.
        picks: how many are friendly, at most.
        cache: folder in which features are kept.
        world: the ranks, and where they compute; None: this process alone, on the CPU.
        progress: show bars.

    Raises:
        SpiderUsageError: a value that cannot be; two datasets of one name; too few images.
        SpiderError, ShardsError: weights, images or features that are missing or damaged.
    """
    if mode not in MODES:
        raise SpiderUsageError(f"no SID mode {mode!r}; there are: {', '.join(MODES)}")
    if picks < 1:
        raise SpiderUsageError(f"picks is {picks}; it must be at least 1")
    if not orders:
        raise SpiderUsageError("no kernel order: name at least one, such as -1")
    kernels = [parse_kernel(order) for order in orders]
    world = World.single("cpu") if world is None else world
    network = load_embedding(embedding, protocol=protocol, weights=weights, device=world.device)
    opened_target, opened = _open(target, world, progress), _open_sources(sources, world, progress)
    drawn_target = _draw(opened_target, images, seed)
    drawn = {name: _draw(source, images, seed) for name, source in opened.items()}

    store = None if cache is None else FeatureCache(cache)
    features = {
        name: extract_features(dataset, network, world, cache=store, progress=progress)
        for name, dataset in drawn.items()
    }
    target_features = extract_features(drawn_target, network, world, cache=store, progress=progress)
    shown = progress and world.is_main
    curves = curves_of_mode(mode, target_features, features, kernels, seed=seed, device=world.device, progress=shown)
    distances = {} if mode == "screen" else _distances(target_features, features, world, seed, shown)

    places = select(
        _candidates(opened_target, opened, {name: of_source[0] for name, of_source in curves.items()}),
        target_is_gray=not has_colour(opened_target),
        picks=picks,
        keep_negative=keep_negative,
        keep_gray=keep_gray,
        difference_stderr=lambda a, b: difference_stderr(curves[a][0], curves[b][0]),
    )
    choices = {"images": images, "picks": picks, "keep_negative": keep_negative, "keep_gray": keep_gray, "seed": seed}
    report = NeighborReport(
        target=opened_target.name,
        embedding=_embedding_json(network),
        rows=[
            NeighborRow(name, len(drawn[name]), place, curves[name], *distances.get(name, (None, None)))
            for name, place in places.items()
        ],
        labels={"fd": METRICS["fid"].label_under(network), "kd": METRICS["kid"].label_under(network)},
        protocol={
            "mode": mode,
            **choices,
            "kid_subsets": KID_SUBSETS if distances else None,
            "target": _dataset_json(opened_target, drawn_target),
            "sources": {name: _dataset_json(opened[name], drawn[name]) for name in opened},
        },
        warnings=_warnings({opened_target.name: drawn_target, **drawn}, network) if distances else [],
    )
    if world.is_main:
        report.write(Path(out))
    return report


def _open(images: Images, world: World, progress: bool) -> NumberedImages:
    return open_images(images, world=world, progress=progress) if isinstance(images, str | Path) else images


def _open_sources(
    sources: Sequence[Images] | Mapping[str, Images], world: World, progress: bool
) -> dict[str, NumberedImages]:
    """The sources by name, which must differ."""
    if not sources:
        raise SpiderUsageError("no sources: name at least one dataset to compare with the target")
    if isinstance(sources, Mapping):
        return {name: _open(images, world, progress) for name, images in sources.items()}
    opened: dict[str, NumberedImages] = {}
    for images in sources:
        dataset = _open(images, world, progress)
        if dataset.name in opened:
            raise SpiderUsageError(f"two sources are named {dataset.name}; give names: NAME=PLACE")
        opened[dataset.name] = dataset
    return opened


def _draw(dataset: NumberedImages, count: int | None, seed: int) -> NumberedImages:
    return dataset if count is None or count >= len(dataset) else DrawnImages(dataset, count, seed)


def _distances(
    target: Features, sources: Mapping[str, Features], world: World, seed: int, progress: bool
) -> dict[str, tuple[float, float]]:
    """Fréchet and kernel distance of every source to the target."""
    target_moments = moments_of(target, world)
    return {
        name: (
            frechet_distance(moments_of(features, world), target_moments),
            kid(features, target, world, seed=seed, subsets=KID_SUBSETS).value,
        )
        for name, features in tqdm(
            sources.items(), "other distances", unit="source", disable=None if progress else True
        )
    }


def _candidates(
    target: NumberedImages, sources: Mapping[str, NumberedImages], curves: Mapping[str, SidCurve]
) -> list[Candidate]:
    return [
        Candidate(
            name=name,
            csid=curves[name].csid,
            stderr=curves[name].csid_stderr,
            is_target=source.fingerprint == target.fingerprint,
            is_gray=not has_colour(source),
        )
        for name, source in sources.items()
    ]


def _warnings(datasets: Mapping[str, NumberedImages], network: Embedding) -> list[str]:
    """Which Fréchet distances are from too few images."""
    label = METRICS["fid"].label_under(network)
    found = {name: too_few_images(len(images), network.dim) for name, images in datasets.items()}
    return [f"{label}, {name}: {warning}" for name, warning in found.items() if warning]


def _embedding_json(network: Embedding) -> dict[str, Any]:
    return {key: getattr(network, key) for key in ("name", "protocol", "label", "dim", "digest")}


def _dataset_json(dataset: NumberedImages, drawn: NumberedImages) -> dict[str, Any]:
    return {
        "path": getattr(dataset, "path", None),
        "fingerprint": dataset.fingerprint,
        "count": len(dataset),
        "measured": len(drawn),
    }
