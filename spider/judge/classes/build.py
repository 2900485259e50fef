"""Make the file of the classes of a dataset: every image through EfficientNet-Lite0 once.

Features are kept where all commands keep them. Whatever stops it, the same command goes on from there. The file is the
same, byte for byte, for any number of workers.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.workers import hired
from shards.dataset import ShardDataset
from spider.backbones.efficientnet_lite0 import CHANNELS, FEATURES
from spider.data import open_images
from spider.errors import SpiderUsageError
from spider.files import cache_directory
from spider.gan.class_file import ClassesAbout, ClassFile
from spider.judge.classes.lda import ClassSums, Wide, best_factor, cross_entropy
from spider.judge.classes.request import ClassesRequest
from spider.judge.embed.cache import Features
from spider.judge.embed.efficientnet import EfficientNetEmbedding
from spider.judge.embed.features import FEATURES_AND_STAGE, extract_features_and_stage
from spider.judge.extraction import ExtractionPlan, ExtractionWorker, KeptPieces
from spider.threads import own_threads

_HELD = 10  # one image of so many is not learnt from at first
_MOST_HELD = 20_000
_SHOWN = 5  # names in an error
_CPU = torch.device("cpu")

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ClassesReport:
    """What was made.

    Attributes:
        out: the file.
        name: of the dataset.
        classes, images: how many.
        unlabelled: images without a label, which were left out.
        held: images that were held out, for the next two.
        accuracy: share of these that the classifier made of the others names rightly.
        cross_entropy: of these, by that classifier. Both are None where no image was held out, or where no class had
            two other images that differ; then scores are as the formula gives them, and too sure.
        seconds: how long it took.
    """

    out: str
    name: str
    classes: int
    images: int
    unlabelled: int
    held: int
    accuracy: float | None
    cross_entropy: float | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class ClassesWorker(ExtractionWorker):
    """See ExtractionWorker."""

    extracts: ClassVar[Any] = staticmethod(extract_features_and_stage)


@dataclass(frozen=True)
class _Unseen:
    """What a classifier makes of images that it was not made of.

    Attributes:
        factor: by which its scores are multiplied, see `lda`.
        accuracy, cross_entropy: then.
    """

    factor: float
    accuracy: float
    cross_entropy: float

    @classmethod
    def of(cls, scores: Wide, labels: Labels) -> _Unseen:
        """Of scores [n, K] of images with these labels."""
        factor = best_factor(scores, labels)
        return cls(factor, float((scores.argmax(1) == labels).mean()), cross_entropy(scores * factor, labels))


def build_classes(request: ClassesRequest) -> ClassesReport:
    """Write the file.

    Raises:
        SpiderUsageError: the images have no labels, fewer than two classes, or a class without an image; no two of a
            class differ.
        SpiderError, ShardsError: weights, images or features that are missing or damaged; workers failed.
        ClusterError: no Ray cluster there.
    """
    began, out = time.monotonic(), Path(request.out)
    dataset = open_images(request.data, progress=request.progress)
    labels = _labels(dataset)
    request.require_own(dataset.fingerprint, lambda file: ClassFile.read(file).about, "file of classes")
    network = EfficientNetEmbedding()
    plan = ExtractionPlan(
        images={dataset.fingerprint: dataset},
        embedding=(network.name, network.protocol, None),
        digest=network.digest,
        cache=Path(request.cache or cache_directory("features")).absolute(),
        outputs=FEATURES_AND_STAGE,
    )
    held = _held(labels)
    sums, stages = (ClassSums(len(dataset.class_names), dim) for dim in (FEATURES, CHANNELS[-1]))
    apart: list[Features] = []
    with hired(partial(ClassesWorker, plan), request.ray, request.workers) as workers:
        kept = KeptPieces(plan, workers, progress=request.progress)
        for span, (rows, means) in kept.of_images(dataset, f"features of {dataset.name}"):
            part = slice(*span)
            known, is_held = labels[part] >= 0, held[part]
            with own_threads(_CPU):  # sums that do not depend on how many threads there are
                sums.add(rows["rows"][known & ~is_held], labels[part][known & ~is_held])
                stages.add(means["rows"][known], labels[part][known])
            apart.append(rows["rows"][is_held])
    with own_threads(_CPU):
        trial = sums.classifier() if held.any() else None
        unseen = None if trial is None else _Unseen.of(trial.scores(np.concatenate(apart)), labels[held])
        sums.add(np.concatenate(apart), labels[held])
        found = sums.classifier()
    if found is None:
        raise SpiderUsageError(f"{dataset.path}: no class has two images that differ: nothing tells classes apart")
    if unseen is not None:
        found = found.scaled(unseen.factor)
    about = ClassesAbout(
        dataset=dataset.fingerprint,
        name=dataset.name,
        classes=[*dataset.class_names],
        images=int((labels >= 0).sum()),
        size=(dataset.index.height, dataset.index.width),
        crop=dataset.index.options.crop,
        embedding=network.label,
        pixels=network.protocol,
        digest=network.digest,
        weights=network.weights_digest,
    )
    vectors, weight, bias = (array.astype(np.float32) for array in (stages.means(), found.weight, found.bias))
    ClassFile(about, vectors, weight, bias).write(out)
    return ClassesReport(
        str(out),
        dataset.name,
        len(about.classes),
        about.images,
        len(labels) - about.images,
        int(held.sum()),
        None if unseen is None else unseen.accuracy,
        None if unseen is None else unseen.cross_entropy,
        time.monotonic() - began,
    )


def _held(labels: Labels) -> NDArray[np.bool_]:
    """Which images are held out: of those with a label every tenth, or 20,000, but for the first of its class."""
    held = np.zeros(len(labels), np.bool_)
    known = np.flatnonzero(labels >= 0)
    every = max(_HELD, -(-len(known) // _MOST_HELD))
    held[known[every - 1 :: every]] = True
    held[known[np.unique(labels[known], return_index=True)[1]]] = False
    return held


def _labels(dataset: ShardDataset) -> Labels:
    """Of the images. Raises SpiderUsageError: they are no labels of two classes or more, of each an image."""
    names, labels = dataset.class_names, dataset.labels()
    if not names or labels.max() < 0:
        kind = "vectors for labels" if dataset.index.vectors is not None else "no labels"
        raise SpiderUsageError(f"{dataset.path} has {kind}; pack images in class folders, or with a dataset.json")
    if len(names) < 2:
        raise SpiderUsageError(f"{dataset.path} has one class, {names[0]}; a classifier tells two apart, or more")
    empty = [names[label] for label in np.flatnonzero(np.bincount(labels[labels >= 0], minlength=len(names)) == 0)]
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
        raise SpiderUsageError(f"{dataset.path} has no image of {len(empty)} of its {len(names)} classes: {shown}")
    return labels
