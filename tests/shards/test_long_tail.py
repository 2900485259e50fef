"""Long-tailed subsets: how many of each class, which ones, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from shards.dataset import ShardDataset
from shards.errors import ShardsUsageError
from shards.long_tail import long_tail_of
from shards.pack import pack


def counts(sizes, ratio):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    chosen = long_tail_of(labels, np.arange(len(labels)), ratio)
    return [Counter(labels[number] for number in chosen)[label] for label in range(len(sizes))]


def test_classes_of_cifar_have_the_published_counts():
    """Cui et al. 2019, CIFAR-10 with an imbalance of 100."""
    assert counts([5000] * 10, 100) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_the_largest_class_comes_first_and_a_small_one_is_taken_whole():
    assert counts([30, 100, 50, 3], 10) == [21, 100, 46, 3]
    assert counts([5, 5], 1e6) == [5, 1]


def test_images_without_a_label_are_left_out():
    assert long_tail_of([-1, 0, 0, 1, -1], np.arange(5), 2) == [1, 2, 3]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for number in range(60):
        path = root / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(path)
    return root


def keys(path):
    dataset = ShardDataset(path)
    return [dataset.key(number) for number in range(len(dataset))]


def test_a_packed_one_keeps_labels_and_lies_within_a_shorter_tail(files, tmp_path, capsys):
    for ratio in (4, 10):
        pack(files, tmp_path / f"{ratio}", long_tail=ratio, seed=3, progress=ratio == 10)
    assert "long tail: 3 classes, from 20 images of a to 2 images of c" in capsys.readouterr().err
    dataset = ShardDataset(tmp_path / "10")
    assert np.bincount(dataset.labels()).tolist() == [20, 6, 2]
    assert dataset.class_names == ["a", "b", "c"]
    assert set(keys(tmp_path / "10")) < set(keys(tmp_path / "4"))
    pack(files, tmp_path / "other", long_tail=10, seed=4, progress=False)
    assert keys(tmp_path / "other") != keys(tmp_path / "10")


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"long_tail": 1}, "long_tail is 1"),
        ({"long_tail": 2, "subset": 5}, "goes without subset"),
        ({"long_tail": 2, "labels": "none"}, "needs two classes"),
    ],
)
def test_what_cannot_be_is_refused(files, tmp_path, options, refusal):
    with pytest.raises(ShardsUsageError, match=refusal):
        pack(files, tmp_path / "out", progress=False, **options)
