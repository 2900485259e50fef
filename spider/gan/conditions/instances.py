"""The instance that an image belongs to, by its features (IC-GAN, Casanova et al. 2021): a bank has them.

    real        an image that is near instance i, told the features of i      n ~ U(A_i), (x_n, h_i)
    generated   told the features of an instance that is drawn by itself      i ~ U(N),   G(z, h_i)

With classes both are also told a class: a real image its own, which need not be the instance's; a generated one that of
a random neighbour of its instance, or with sampler=classes that of the image whose neighbour its instance is. Which
instance a real image is read for follows from where it stands in the stream, so order, resume and world size are exact.
Sampling: facebookresearch/ic_gan, data_utils/datasets_common.py.

    sampler = instances            every instance once per epoch, and a random neighbour of it is read
              balanced_instances   the same, of instances whose classes come by n^(1/temperature)
              classes              images whose classes come by n^(1/temperature); told of a random neighbour of them

A finished generator keeps some instances, so that it needs no bank: those that stand for all (`stored`), or every one.
Where its samples are of all classes alike, it keeps more for the classes that none of these is near to.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from shards.balance import BalancedOrder, quotas
from shards.dataset import ShardDataset
from shards.order import Indices, Order, raw_words
from shards.stream import Batch, Reading, reading
from spider import draws
from spider.errors import SpiderUsageError
from spider.gan.conditions.bank import BankAbout, InstanceBank
from spider.gan.conditions.classes import Law, class_of_name
from spider.gan.conditions.conditions import Conditions
from spider.gan.conditions.config import InstanceConditionConfig
from spider.gan.outputs import Condition, ConditionShape
from untrusted.counts import counted
from untrusted.typed import checked

_CPU = torch.device("cpu")
_READS_KEPT = 256  # reads ahead, whose instances are asked for again when the images have come
_AT_ONCE = 4096  # instances whose neighbours are looked at
_BITS = 31  # of a word that says which: probabilities differ by at most 2^-31


class InstanceState(TypedDict):
    """What checkpoints hold beside the features: how they were made of images, and the classes' names and counts."""

    embedding: str
    protocol: str
    label: str
    digest: str
    size: tuple[int, int]  # height and width of the images that went through it; 0: those that are learnt
    crop: str  # how they became so
    names: list[str]
    counts: list[int]


class Instances(Conditions):
    """What a finished generator knows of instances: features of some, and the classes near each.

    Args:
        features: [S, D], of length 1.
        labels: int32 [S, k], classes of the neighbours of each, or the class that it is kept for; [S, 0] without
            classes, or where none are known.
        alike: whether numbered images are of all classes alike.
    """

    def __init__(self, state: InstanceState, features: Tensor, labels: Tensor, *, alike: bool = False) -> None:
        self.known, self.alike = state, alike
        self.names, self.counts = state["names"], state["counts"]
        self.present = [label for label, count in enumerate(state["counts"]) if count]
        self.features, self.labels = features, labels
        self.shape = ConditionShape(len(self.names), features.shape[1], tuple(self.names))

    @classmethod
    def of_state(cls, state: Any, tensors: Mapping[str, Tensor], *, alike: bool) -> Self:
        """The instances that a checkpoint has. Raises UnreadableError or ValueError if it is no such state."""
        before = {"size": BankAbout.size, "crop": BankAbout.crop}  # of runs whose checkpoints do not say
        known = checked({**before, **checked(state, dict[str, Any], "condition")}, InstanceState, "condition")
        features, labels = tensors["features"], tensors["labels"]
        classes = len(known["names"])
        if features.dim() != 2 or labels.dim() != 2 or not 0 < len(features) == len(labels):
            raise ValueError(f"condition: features {list(features.shape)}, labels {list(labels.shape)}")
        if len(known["counts"]) != classes or bool(classes) != bool(labels.shape[1]):
            raise ValueError(f"condition: {classes} classes, labels {list(labels.shape)}")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"condition: labels that are none of {classes} classes")
        return cls(known, features, labels, alike=alike)

    def of_bank(self, bank: InstanceBank, *, alike: bool = False) -> Instances:
        """Those of a bank of any images that stand for all, in the place of these.

        Their neighbours' classes are known if the bank has labels, and all are of classes of this generator, by name.
        Where samples are of all classes alike, or are to be (`alike`), some are kept that are near each class.

        Raises SpiderUsageError: another embedding has made the bank.
        """
        if bank.about.digest != self.known["digest"]:
            raise SpiderUsageError(
                f"{bank.path}: its features are {bank.about.label}'s (digest {bank.about.digest[:12]}), and the "
                f"generator is told of {self.known['label']}'s ({self.known['digest'][:12]})"
            )
        stored = bank.centres.astype(np.int64)
        labels = np.zeros((len(stored), 0), np.int32)
        if self.names and bank.labels is not None:
            numbers = {name: number for number, name in enumerate(self.names)}
            own = np.array([numbers.get(name, -1) for name in bank.about.classes], np.int32)
            of_images = np.where(bank.labels < 0, -1, own[bank.labels])
            found = of_images[bank.neighbors[stored, : self.labels.shape[1]]]
            if found.min() >= 0:
                stored, labels = (
                    _with_every_class(bank, of_images, stored, found) if self.alike or alike else (stored, found)
                )
        features = torch.from_numpy(bank.features[stored])
        return Instances(self.known, features, torch.from_numpy(labels), alike=self.alike)

    def classes_of(self, dataset: ShardDataset) -> NDArray[np.int64]:
        """See Conditions."""
        return dataset.labels() if self.names else super().classes_of(dataset)

    def among(self, classes: Sequence[str]) -> Self:
        """See Conditions. In the shares that these classes have among the neighbours, or alike; each of an instance
        that has a neighbour of it. Where these are not known: of any instance, in the shares of the training images.
        """
        chosen = sorted({self.class_number(name) for name in classes})
        for label in chosen:
            if label not in self.present:
                raise SpiderUsageError(f"class {self.names[label]}: no training image has it")
            if self.labels.shape[1] and not len(self._near_class[label]):
                raise SpiderUsageError(f"class {self.names[label]}: none of its images is near a stored instance")
        among = copy.copy(self)
        among.only = [self.names[label] for label in chosen]
        return among

    def with_classes_alike(self) -> Self:
        """See Conditions. Each is of an instance that has a neighbour of its class."""
        if not self.names:
            super().with_classes_alike()  # which refuses it
        if not self.labels.shape[1]:
            raise SpiderUsageError("samples of all classes alike: the classes near these instances are not known")
        balanced = copy.copy(self)
        balanced.alike = True
        balanced.__dict__.pop("_near_class", None)
        asked = [self.class_number(name) for name in self.only] or self.present
        if far := [self.names[label] for label in asked if not len(balanced._near_class[label])]:
            raise SpiderUsageError(
                f"samples of all classes alike: no stored instance is near one of {', '.join(far[:3])} ({len(far)} of "
                f"{counted(len(asked), 'class', 'classes')}); a run with condition.samples=uniform stores some, and "
                "--bank FILE takes some of a bank with labels"
            )
        return balanced

    def at(self, seed: int, indices: Sequence[int], device: torch.device) -> Condition:
        """Each of an instance that is drawn, and of the class of a random neighbour of it; or the other way round."""
        if self.only or (self.alike and self.labels.shape[1]):
            return self._of_classes(seed, indices, device)
        chosen = draws.integers(seed, "eval.instance", indices, (), len(self.features))
        return self.of_stored(chosen, seed, indices, device)

    def _of_classes(self, seed: int, indices: Sequence[int], device: torch.device) -> Condition:
        """Each of a class that is drawn, and of an instance that has a neighbour of it."""
        words = draws.integers(seed, "eval.instance.class", indices, (2,), 1 << _BITS).numpy()
        near = self._near_class
        labels = [self.class_number(name) for name in self.only] or [n for n, rows in enumerate(near) if len(rows)]
        shares = [len(near[label]) if self.labels.shape[1] else self.counts[label] for label in labels]
        ends = np.cumsum(np.ones_like(shares) if self.alike else shares)
        classes = np.array(labels)[np.searchsorted(ends, _below(words[:, 0], int(ends[-1])), side="right")]
        members = [near[label] for label in classes]
        places = _below(words[:, 1], np.array([len(each) for each in members]))
        chosen = torch.tensor([int(each[place]) for each, place in zip(members, places, strict=True)])
        return Condition(torch.from_numpy(classes).to(device), self.features.cpu()[chosen].float().to(device))

    @cached_property
    def _near_class(self) -> list[NDArray[np.int64]]:
        """Of each class the instances that have a neighbour of it, as often as they have; if classes are alike, once.

        Where the neighbours' classes are not known, all instances.
        """
        k = self.labels.shape[1]
        if not k:
            return [np.arange(len(self.features))] * len(self.names)
        rows = [places // k for places in _members(self.labels.cpu().numpy().reshape(-1), len(self.names))]
        return [np.unique(each) for each in rows] if self.alike else rows

    def of_stored(self, chosen: Tensor, seed: int, indices: Sequence[int], device: torch.device) -> Condition:
        """The conditions of stored instances, by number; classes as images number `indices` draw them."""
        labels = None
        if self.labels.shape[1]:
            which = draws.integers(seed, "eval.instance.neighbor", indices, (), self.labels.shape[1])
            labels = self.labels.cpu()[chosen, which].long().to(device)
        return Condition(labels, self.features.cpu()[chosen].float().to(device))

    def class_number(self, name: str) -> int:
        """See Conditions."""
        if not self.names:
            raise SpiderUsageError(f"class {name}: the generator was trained without classes (condition.classes=false)")
        return class_of_name(name, self.names)

    @property
    def identity(self) -> str:
        """See Conditions. The digest of a generator covers the features."""
        told = "\n".join(
            [
                self.known["digest"],
                *self.names,
                *(["alike"] if self.alike else []),
                *(f"of {name}" for name in self.only),
            ]
        )
        return f"instance {hashlib.sha256(told.encode()).hexdigest()}"

    def state(self) -> dict[str, Any]:
        """An InstanceState."""
        return dict(self.known)

    def tensors(self) -> dict[str, Tensor]:
        """See Conditions."""
        return {"features": self.features, "labels": self.labels}


class TrainedInstances(Instances):
    """The same, of a training: all instances of a bank, and the order of the images that belong to them."""

    def __init__(
        self, config: InstanceConditionConfig, bank: InstanceBank, dataset: ShardDataset, *, paired: bool
    ) -> None:
        self.config, self.bank, self.paired = config, bank, paired
        self.flips = bank.features_flipped is not None if config.flips is None else config.flips
        if self.flips and bank.features_flipped is None:
            raise SpiderUsageError(
                f"condition.flips=true: {bank.path} has no features of flipped images; spider instances --flips makes "
                "them"
            )
        self.k = config.neighbors or bank.neighbors.shape[1]
        if self.k > (there := bank.neighbors.shape[1]):
            raise SpiderUsageError(
                f"condition.neighbors={self.k}: {bank.path} has the nearest {there} of each image; give "
                f"condition.neighbors={there}, or make a bank by spider instances ... --neighbors {self.k}"
            )
        names: list[str] = []
        counts: list[int] = []
        self.of_images = dataset.labels()
        if config.needs_labels:
            names, counts = self._classes(dataset)
        self._seed = 0
        self._instances: Reading | None = None
        self._batch = 1
        about = bank.about
        state = InstanceState(
            embedding=about.embedding,
            protocol=about.protocol,
            label=about.label,
            digest=about.digest,
            size=about.size,
            crop=about.crop,
            names=names if config.classes else [],
            counts=counts if config.classes else [],
        )
        stored = self._stored()
        labels = self.of_images[bank.neighbors[stored, : self.k if config.classes else 0]].astype(np.int32)
        alike = config.samples == "uniform"
        if alike:
            stored, labels = _with_every_class(bank, self.of_images, stored, labels)
        super().__init__(state, torch.from_numpy(bank.features[stored]), torch.from_numpy(labels), alike=alike)
        # A fake's instance, by the shares of the classes where they are balanced
        by_class = quotas(counts, config.temperature) if config.sampler != "instances" else None
        self._law = None if by_class is None else Law(by_class.tolist())
        self._members = [] if by_class is None else _members(self.of_images, len(by_class))

    def _classes(self, dataset: ShardDataset) -> tuple[list[str], list[int]]:
        names, labels = dataset.index.classes, self.of_images
        if not names or labels.min() < 0:
            what = (
                "no labels" if not names or labels.max() < 0 else f"{int((labels < 0).sum()):,} images without a label"
            )
            asked = ["classes=true"] if self.config.classes else []
            asked += [] if self.config.sampler == "instances" else [f"sampler={self.config.sampler}"]
            raise SpiderUsageError(
                f"condition.{', condition.'.join(asked)}: {dataset.path} has {what}; condition.classes=false and "
                "condition.sampler=instances need none"
            )
        return list(names), np.bincount(labels, minlength=len(names)).tolist()

    def _stored(self) -> NDArray[np.int64]:
        """Which instances a finished generator keeps."""
        bank, wanted = self.bank, self.config.stored
        if wanted == "all":
            return np.arange(len(bank))
        if not len(bank.centres):
            raise SpiderUsageError(f"condition.stored=centres: {bank.path} has none; spider instances makes them")
        return bank.centres.astype(np.int64)

    # ---------------------------------------------------------------------------------------------- images to learn

    def order(self, dataset: ShardDataset, kind: Order, seed: int, global_batch: int) -> Order | Reading:
        """See Conditions, and the module."""
        self._seed = seed
        base: Reading
        if self.config.sampler == "instances":
            base = reading(dataset, kind, seed, global_batch)
        else:
            base = BalancedOrder(self.of_images, seed=seed, temperature=self.config.temperature)
        self._batch = global_batch
        if self.config.sampler == "classes":
            return base

        @lru_cache(_READS_KEPT)
        def instances(start: int, stop: int) -> Indices:
            found = base(start, stop)
            found.setflags(write=False)  # it is shared
            return found

        def read(start: int, stop: int) -> Indices:
            found: Indices = self.bank.neighbors[instances(start, stop), self._which(start, stop)].astype(np.int64)
            return found

        self._instances = instances
        return read

    def of_reals(self, batch: Batch, device: torch.device) -> Condition:
        """The features of the instance that each was read for, and its own class."""
        first = int(batch.positions[0]) // self._batch * self._batch
        stop, slots = first + self._batch, batch.positions - first  # of all ranks, as they were read
        if self.config.sampler == "classes":
            instances = self.bank.neighbors[batch.indices, self._which(first, stop)[slots]]
        else:
            assert self._instances is not None
            instances = self._instances(first, stop)[slots]
        flipped = (raw_words("instance.flip", self._seed, 0, first, stop) >> np.uint64(63)).astype(bool)[slots]
        labels = batch.labels.to(device, non_blocking=True) if self.config.classes else None
        return Condition(labels, self._features(instances, flipped, device))

    def _which(self, start: int, stop: int) -> NDArray[np.int64]:
        """Which neighbour stands at positions of the stream of real images."""
        words = raw_words("instance.neighbor", self._seed, 0, start, stop) >> np.uint64(64 - _BITS)
        return _below(words.astype(np.int64), self.k)

    # --------------------------------------------------------------------------------------------- images to generate

    def drawn(self, seed: int, stream: str, indices: Sequence[int], device: torch.device) -> Condition:
        """Of instances that are drawn, each by itself."""
        # One draw for all that an image needs: a draw costs as much as reading its features
        words = draws.integers(seed, f"{stream}.instance", indices, (4,), 1 << _BITS).numpy()
        which, near, flip, of_image = words.T
        instances = drawn = self._drawn(seed, stream, indices, which)
        if self.config.sampler == "classes":  # an image was drawn, and its instance is near it
            instances = self.bank.neighbors[drawn, _below(of_image, self.k)].astype(np.int64)
        labels = None
        if self.config.classes:
            images = drawn if self.config.sampler == "classes" else self.bank.neighbors[drawn, _below(near, self.k)]
            labels = torch.from_numpy(self.of_images[images]).to(device)
        return Condition(labels, self._features(instances, flip >> (_BITS - 1) > 0, device))

    def _drawn(
        self,
        seed: int,
        stream: str,
        indices: Sequence[int],
        which: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """The instances by words that were drawn; with sampler=classes the images that they are near."""
        if self._law is None:
            return _below(which, len(self.bank))
        classes = self._law(seed, f"{stream}.class", indices, _CPU).numpy()
        members = [self._members[label] for label in classes]
        places = _below(which, np.array([len(each) for each in members]))
        return np.array([each[place] for each, place in zip(members, places, strict=True)])

    def _features(self, instances: NDArray[Any], flipped: NDArray[np.bool_], device: torch.device) -> Tensor:
        """Of instances, some of them of the flipped image; [n, D]."""
        found = self.bank.features[instances]
        if self.flips:
            assert self.bank.features_flipped is not None
            found[flipped] = self.bank.features_flipped[instances[flipped]]
        return torch.from_numpy(np.asarray(found)).to(device, non_blocking=True).float()


def _below(words: NDArray[np.int64], stop: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of 0 .. stop - 1 of words of `_BITS` bits."""
    below: NDArray[np.int64] = words * stop >> _BITS
    return below


def _with_every_class(
    bank: InstanceBank, of_images: NDArray[Any], stored: NDArray[np.int64], labels: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Stored instances and their neighbours' classes, and besides some of each class that none of these is near to.

    Those are instances that have a neighbour of the class; where no instance has, the nearest neighbour of each of its
    images. They are told that class alone, and are as many as a class has on average, or fewer.

    Args:
        of_images: the class of each image of the bank, -1 where it has none.
        stored: [S].
        labels: [S, k].
    """
    k = labels.shape[1]
    classes = np.unique(of_images[of_images >= 0])
    missing = np.setdiff1d(classes, labels)
    if not len(missing):
        return stored, labels
    most = -(-len(stored) // len(classes))
    near: dict[int, list[NDArray[np.int64]]] = {int(label): [] for label in missing}
    for first in range(0, len(bank), _AT_ONCE):
        found = of_images[bank.neighbors[first : first + _AT_ONCE, :k]]
        for label in np.intersect1d(found, missing).tolist():
            near[label].append(first + np.flatnonzero((found == label).any(axis=1)))
    for label, parts in near.items():
        rows = np.concatenate(parts) if parts else np.unique(bank.neighbors[of_images == label, 0]).astype(np.int64)
        rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
        stored = np.concatenate([stored, rows])
        labels = np.concatenate([labels, np.full((len(rows), k), label, np.int32)])
    return stored, labels


def _members(labels: NDArray[Any], classes: int) -> list[NDArray[np.int64]]:
    """Where each class stands, rising."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=classes))[:-1])
