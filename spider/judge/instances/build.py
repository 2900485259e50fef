"""Make a bank of instances: every image through the embedding once, and the nearest of each.

Features are kept where a neighbour search keeps them, so each finds what the other has made. Whatever stops it, the
same command goes on from there. The result is the same for any number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.workers import Piece, Workers, hired
from shards.dataset import ShardDataset
from spider import weights
from spider.data import open_images
from spider.errors import SpiderUsageError
from spider.files import cache_directory, write_text
from spider.gan.conditions.bank import BankAbout, BankShape, InstanceBank, new_bank
from spider.judge.embed.cache import Features
from spider.judge.embed.features import Span
from spider.judge.embed.images import FlippedImages, NumberedImages
from spider.judge.embed.load import load_embedding
from spider.judge.extraction import ExtractionPlan, KeptPieces
from spider.judge.instances.nearest import QUERIES
from spider.judge.instances.published import read_centres
from spider.judge.instances.request import InstancesRequest
from spider.judge.instances.worker import BankWorker, MappedVectors, nearest_key
from spider.threads import own_threads

_POINTS_PER_CENTRE = 256  # of k-means; more images are drawn from, as faiss does
_ROUNDS = 100  # of k-means, at most; IC-GAN's


@dataclass(frozen=True)
class BankReport:
    """What was made.

    Attributes:
        out: the file.
        about: what the bank is of.
        images, dim, neighbors, centres: its sizes.
        flipped: whether it has features of flipped images.
        label_agreement: share of neighbours that have the label of their instance; None where there are no labels.
        radius: the median of the radii.
        seconds: how long it took.
    """

    out: str
    about: BankAbout
    images: int
    dim: int
    neighbors: int
    centres: int
    flipped: bool
    label_agreement: float | None
    radius: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def build_bank(request: InstancesRequest) -> BankReport:
    """Write a bank.

    Raises:
        SpiderUsageError: too few images for so many neighbours; `pixels` are other images.
        SpiderError, ShardsError: weights, images or features that are missing or damaged; workers failed.
        ClusterError: no Ray cluster there.
    """
    began = time.monotonic()
    file = weights.of_embedding(request.embedding, request.weights)
    weights_file = None if file is None else file.absolute()
    network = load_embedding(request.embedding, protocol=request.protocol, weights=weights_file)
    dataset = open_images(request.data, progress=request.progress)
    pixels = dataset
    if request.pixels is not None:
        pixels = open_images(request.pixels, progress=request.progress)
        _require_same_images(dataset, pixels)
    if len(dataset) <= request.neighbors:
        raise SpiderUsageError(
            f"neighbors: {dataset.name} has {len(dataset)} images, so each has at most {len(dataset) - 1} others; "
            f"{request.neighbors} were asked for"
        )
    request.require_own(dataset.fingerprint, lambda file: InstanceBank.open(file).about, "bank of instances")
    classes = tuple(dataset.class_names) if dataset.class_names and dataset.labels().max() >= 0 else ()
    about = BankAbout(
        dataset=dataset.fingerprint,
        pixels=pixels.fingerprint,
        name=dataset.name,
        embedding=network.name,
        protocol=network.protocol,
        label=network.label,
        digest=network.digest,
        size=(pixels.index.height, pixels.index.width),
        crop=pixels.index.options.crop,
        classes=classes,
    )
    given = None if isinstance(request.centres, int) else read_centres(Path(request.centres), len(dataset))
    centres = min(int(request.centres), len(dataset)) if given is None else len(given)  # type: ignore[arg-type]
    shape = BankShape(
        len(dataset), network.dim, request.neighbors, centres, flipped=request.flips, labelled=bool(classes)
    )
    sets: dict[str, NumberedImages] = {"features": pixels}
    if request.flips:
        sets["features_flipped"] = FlippedImages(pixels)
    cache = Path(request.cache or cache_directory("features")).absolute()
    spec = (request.embedding, request.protocol, weights_file)
    plan = ExtractionPlan({images.fingerprint: images for images in sets.values()}, spec, network.digest, cache)
    out = Path(request.out)
    with (
        hired(partial(BankWorker, plan), request.ray, request.workers) as workers,
        new_bank(out, about, shape) as arrays,
    ):
        maker = _Maker(plan, workers, progress=request.progress)
        for name, images in sets.items():
            for (start, stop), rows in maker.features(images):
                arrays[name][start:stop] = _unit(rows, images.name, start)
        vectors = arrays["features"]
        assert isinstance(vectors, np.memmap)
        vectors.flush()
        where = MappedVectors(str(vectors.filename), vectors.offset, (shape.images, shape.dim))
        for (start, stop), numbers, radii in maker.nearest(pixels, where, request.neighbors):
            arrays["neighbors"][start:stop] = numbers
            arrays["radii"][start:stop] = radii
        arrays["centres"][:] = centre_images(vectors, centres, request.seed) if given is None else given
        if classes:
            arrays["labels"][:] = dataset.labels()
    bank = InstanceBank.open(out)
    if request.centre_list is not None:
        write_text(Path(request.centre_list), "".join(f"{dataset.key(int(number))}\n" for number in bank.centres))
    return BankReport(
        str(out),
        about,
        shape.images,
        shape.dim,
        shape.neighbors,
        shape.centres,
        shape.flipped,
        _agreement(bank, dataset),
        float(np.median(bank.radii)),
        time.monotonic() - began,
    )


class _Maker:
    """The two stages, by workers."""

    def __init__(self, plan: ExtractionPlan, workers: Workers, *, progress: bool) -> None:
        self._plan = plan
        self._pieces = KeptPieces(plan, workers, progress=progress)

    def features(self, images: NumberedImages) -> Iterator[tuple[Span, Features]]:
        """Of all images."""
        words = f"features of {images.name}{' flipped' if isinstance(images, FlippedImages) else ''}"
        for span, (kept,) in self._pieces.of_images(images, words):
            yield span, kept["rows"]

    def nearest(
        self, images: NumberedImages, vectors: MappedVectors, k: int
    ) -> Iterator[tuple[Span, NDArray[np.int32], NDArray[np.float32]]]:
        """Of all instances."""
        words, fingerprint = f"nearest {k} of {images.name}", images.fingerprint
        spans = [(start, min(start + QUERIES, len(images))) for start in range(0, len(images), QUERIES)]
        pieces = {
            Piece(f"{words}, images {span[0]} to {span[1] - 1}", "nearest", (fingerprint, vectors, k, *span)):
            (nearest_key(self._plan, fingerprint, span, k),)
            for span in spans
        }  # fmt: skip
        for span, (kept,) in self._pieces.done(words, pieces):
            yield span, kept["numbers"], kept["radii"]


def centre_images(vectors: NDArray[np.float16], count: int, seed: int) -> NDArray[np.int32]:
    """The images that stand for all: of each centre of k-means the nearest, each once, rising; int32 [count].

    Of more than 256 images for each centre, so many are drawn for k-means; the nearest is sought among all. Where two
    centres have the same nearest image, the images farthest from all chosen ones fill the places.
    """
    import torch
    from sklearn.cluster import KMeans
    from sklearn.metrics.pairwise import euclidean_distances

    images = len(vectors)
    if count >= images:
        return np.arange(images, dtype=np.int32)
    drawn = np.arange(images)
    if images > _POINTS_PER_CENTRE * count:
        drawn = np.sort(np.random.default_rng(seed).permutation(images)[: _POINTS_PER_CENTRE * count])
    points = np.asarray(vectors[drawn]).astype(np.float32)
    with own_threads(torch.device("cpu")):  # sums that do not depend on how many threads there are
        means = KMeans(count, n_init=1, max_iter=_ROUNDS, random_state=seed, copy_x=False).fit(points).cluster_centers_
        del points
        near, nearest = np.full(count, np.inf), np.zeros(count, np.int64)
        for first, block in _blocks(vectors):
            distances = euclidean_distances(block, means)
            closest = distances.argmin(axis=0)
            closer = distances[closest, np.arange(count)] < near
            near[closer], nearest[closer] = distances.min(axis=0)[closer], first + closest[closer]
        chosen = np.unique(nearest)
        if len(chosen) < count:
            kept = np.asarray(vectors[chosen]).astype(np.float32)
            far = np.concatenate([euclidean_distances(block, kept).min(axis=1) for _, block in _blocks(vectors)])
            rest = np.argsort(-far, kind="stable")
            chosen = np.concatenate([chosen, rest[~np.isin(rest, chosen)][: count - len(chosen)]])
    found: NDArray[np.int32] = np.sort(chosen).astype(np.int32)
    return found


def _blocks(vectors: NDArray[np.float16]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The number of the first of some vectors, and these."""
    for first in range(0, len(vectors), QUERIES):
        yield first, np.asarray(vectors[first : first + QUERIES]).astype(np.float32)


def _unit(rows: Features, name: str, first: int) -> NDArray[np.float16]:
    """Divided by their lengths. Raises SpiderUsageError: one has none."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise SpiderUsageError(f"{name}: the features of image {first + int(bad[0])} are all 0 or not finite")
    unit: NDArray[np.float16] = (rows / lengths).astype(np.float16)
    return unit


def _require_same_images(dataset: ShardDataset, pixels: ShardDataset) -> None:
    """Raises SpiderUsageError unless both have the same keys in the same order."""
    if len(dataset) != len(pixels):
        raise SpiderUsageError(f"pixels: {pixels.path} has {len(pixels)} images, and {dataset.path} {len(dataset)}")
    for number in range(len(dataset)):
        if dataset.key(number) != pixels.key(number):
            raise SpiderUsageError(
                f"pixels: image {number} is {pixels.key(number)} in {pixels.path} and {dataset.key(number)} in "
                f"{dataset.path}: pack both from the same files"
            )


def _agreement(bank: InstanceBank, dataset: ShardDataset) -> float | None:
    """Of the images that have a label."""
    labels = dataset.labels()
    labelled = np.flatnonzero(labels >= 0)
    if not dataset.class_names or not len(labelled):
        return None
    agree = sum(
        int((labels[bank.neighbors[rows]] == labels[rows, None]).sum()) for rows in np.array_split(labelled, 64)
    )
    return float(agree / (len(labelled) * bank.neighbors.shape[1]))
