"""The grids that a training shows: samples and training images. With classes, each has a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from shards.dataset import ShardDataset
from spider import draws
from spider.gan.conditions.conditions import Conditions
from spider.gan.pixels import to_float
from spider.gan.sources.frozen import FrozenGenerator
from spider.pictures.generate import SEED, caption
from spider.pictures.grids import COLUMNS, sample_grid

_LEAST_ROW = 4  # images of a class, where there are many classes


def grid_of_samples(generator: FrozenGenerator, count: int) -> npt.NDArray[np.uint8]:
    """A grid of the first images, each under its number: uint8 [height, width, 3].

    With classes each has a row, in which number N is what `spider generate --class NAME --seeds N` writes. Where there
    are too many classes for `count` images in rows of four, some are shown, spread over all of them.
    """
    present = generator.conditions.present
    if not present:
        images, sources = generator.with_sources(SEED, range(count))
        return sample_grid(images, sources, captions=[caption(number) for number in range(count)])
    labels, columns = class_rows(present, count)
    numbers = [*range(columns)] * len(labels)
    of_each = [label for label in labels for _ in range(columns)]
    images, sources = generator.with_sources(SEED, numbers, generator.told(SEED, numbers, of_each))
    captions = [caption(number) for number in numbers]
    names = [generator.conditions.names[label] for label in labels]
    return sample_grid(images, sources, columns=columns, captions=captions, rows=names)


def grid_of_reals(dataset: ShardDataset, conditions: Conditions, seed: int, count: int) -> npt.NDArray[np.uint8]:
    """A grid of images of a dataset, drawn, because the first ones may be of one class: uint8 [height, width, 3].

    With classes it has the rows of `grid_of_samples`. A class with fewer images than a row begins anew.
    """
    drawn = draws.generator(seed, "record.reals").permutation(len(dataset))
    if not conditions.present:
        return sample_grid(to_float(torch.from_numpy(dataset.read_batch(drawn[:count])[0])))
    labels, columns = class_rows(conditions.present, count)
    classes = conditions.classes_of(dataset)[drawn]
    chosen = np.concatenate([np.resize(drawn[classes == label], columns) for label in labels])
    images = to_float(torch.from_numpy(dataset.read_batch(chosen)[0]))
    return sample_grid(images, columns=columns, rows=[conditions.names[label] for label in labels])


def class_rows(present: Sequence[int], count: int) -> tuple[list[int], int]:
    """Which classes have a row in a grid of about `count` images, and how many images a row has."""
    columns = min(count, max(_LEAST_ROW, min(COLUMNS, count // len(present))))
    rows = min(len(present), count // columns)
    return [present[i * len(present) // rows] for i in range(rows)], columns
