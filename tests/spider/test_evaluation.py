"""What of a set is measured when not all of it is."""

from __future__ import annotations

from cluster.world import World
from spider.evaluation import evaluate


def test_a_counted_set_is_drawn_by_the_seed(digits):
    """Not its first images, which in a set sorted by class are a few classes."""

    def values(seeds):
        found = evaluate(
            digits, World.single(), reference=digits, metrics=["fid"], embedding="offline", count=60, seeds=seeds
        )
        return [result.value for result in found.results]

    first, second = values([0, 1])
    assert first != second
    assert values([1]) == [second]
