"""Instances of a run side by side with the images that lie near them, and with what the generator makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from shards.dataset import ShardDataset
from spider.gan.conditions.bank import InstanceBank
from spider.gan.conditions.instances import Instances
from spider.gan.pixels import to_float
from spider.gan.sources.frozen import FrozenGenerator
from spider.pictures.generate import SEED, caption
from spider.pictures.grids import sample_grid, write_png

NAME = "instances.png"

_ROWS = 8
_NEAREST = 4
_SAMPLES = 6


def draw_instances(file: Path, generator: FrozenGenerator, bank: InstanceBank, dataset: ShardDataset) -> None:
    """A row for each of some instances: its image, the nearest images of the bank, and samples.

    Args:
        file: the PNG to write.
        generator: told of instances of the bank.
        bank: of `dataset`.
    """
    known = generator.conditions
    assert isinstance(known, Instances)
    first = known.features[: len(bank.centres)].cpu().numpy()  # more may follow, of rare classes
    stored = bank.centres if np.array_equal(first, bank.features[bank.centres]) else np.arange(len(bank))
    rows = np.unique(np.linspace(0, len(stored) - 1, _ROWS).astype(int))
    nearest = min(_NEAREST, bank.neighbors.shape[1])
    seeds = range(_SAMPLES)
    cells, captions = [], []
    for row in rows:
        image = int(stored[row])
        pixels, _ = dataset.read_batch([image, *bank.neighbors[image, :nearest]])
        told = known.of_stored(torch.full((_SAMPLES,), int(row)), SEED, seeds, generator.device)
        real = to_float(torch.from_numpy(pixels))
        gap = torch.ones_like(real[:1])
        cells += [real, gap, generator.images(SEED, seeds, told).cpu()]
        near = [f"near {number + 1}" for number in range(nearest)]
        captions += [f"image {image}", *near, "", *map(caption, seeds)]
    note = (
        f"Each row: an image of {bank.about.name}, the images nearest to it, and uncurated samples that are told of "
        "this image."
    )
    write_png(file, sample_grid(torch.cat(cells), columns=2 + nearest + _SAMPLES, captions=captions, note=note))
