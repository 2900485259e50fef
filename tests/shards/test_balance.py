"""The order in which rare classes come more often: counted, addressed by position, every image in its turn."""

from __future__ import annotations

import numpy as np
import pytest

from shards.balance import BalancedOrder, quotas
from shards.errors import ShardsUsageError

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 2, 3, -1], [50, 30, 5, 9]))  # class 1 has no images


def balanced(temperature=2.0, seed=7):
    return BalancedOrder(LABELS, seed=seed, temperature=temperature)


@pytest.mark.parametrize(
    ("counts", "temperature", "expected"),
    [
        ([100, 25, 0, 1], 1, [100, 25, 0, 1]),
        ([100, 25, 0, 1], 2, [79, 39, 0, 8]),  # 126 * (10, 5, 1) / 16 = 78.75, 39.375, 7.875
        ([100, 25, 0, 1], None, [42, 42, 0, 42]),
        ([3, 3, 4], None, [4, 3, 3]),  # what is left goes to the first
    ],
)
def test_quotas_are_in_proportion_to_the_root_of_the_counts(counts, temperature, expected):
    assert quotas(counts, temperature).tolist() == expected


@pytest.mark.parametrize(("counts", "temperature"), [([0, 0], 2), ([3], 0.5)])
def test_what_cannot_be_balanced_is_refused(counts, temperature):
    with pytest.raises(ShardsUsageError, match=r"^quotas: "):
        quotas(counts, temperature)


def test_every_epoch_has_the_quota_of_every_class():
    order = balanced()
    for epoch in range(5):
        labels = LABELS[order(85 * epoch, 85 * (epoch + 1))]
        assert np.bincount(labels, minlength=4).tolist() == order.quota.tolist() == quotas([50, 0, 30, 5], 2).tolist()


def test_the_image_at_a_position_does_not_depend_on_what_else_is_read():
    whole = balanced()(0, 500)
    pieces = [balanced()(start, start + 20) for start in range(480, -1, -20)][::-1]
    assert np.array_equal(whole, np.concatenate(pieces))
    assert not np.array_equal(whole, balanced(seed=8)(0, 500))


def test_the_images_of_a_class_come_equally_often_and_in_changing_order():
    order = balanced()
    read = order(0, 85 * 20)
    for label in (0, 2, 3):
        members, mine = np.flatnonzero(np.equal(LABELS, label)), read[LABELS[read] == label]
        assert np.ptp([(mine == image).sum() for image in members]) <= 1
    rare = read[LABELS[read] == 3]
    assert len({tuple(rare[start : start + 5]) for start in range(0, 50, 5)}) > 1
