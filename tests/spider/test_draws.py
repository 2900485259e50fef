"""A seed means the same with every version of numpy and torch: what is drawn is compared across machines by its seed.

Change nothing here for the sake of a new version without saying in docs/architecture.md what no longer compares.
"""

from __future__ import annotations

import torch

from cluster.world import World
from shards.order import mirrored, order, subset_rank
from spider import draws
from spider.config.load import load_config
from spider.networks.build import build_discriminator


def test_whole_numbers_are_the_known_ones():
    assert draws.generator(7, "a", 3).permutation(8).tolist() == [7, 6, 3, 1, 0, 4, 2, 5]
    assert draws.generator(7, "b").choice(1000, 4, replace=False).tolist() == [319, 121, 247, 880]
    assert draws.generator(7, "c").integers(1 << 31) == 464944801
    assert draws.torch_seed(7, "d") == 2806399511507581109


def test_the_order_of_images_is_the_known_one():
    stream = {"seed": 7, "count": 8, "global_batch": 4, "start": 0, "stop": 8}
    assert order("full", **stream).tolist() == [3, 0, 5, 6, 1, 7, 4, 2]
    assert order("shard_local", **stream, shard_counts=[3, 3, 2]).tolist() == [2, 3, 1, 7, 0, 5, 4, 6]
    assert mirrored(7, 0, 8).nonzero()[0].tolist() == [1, 3, 4, 5, 6]
    assert subset_rank(7, list("abcdef")).tolist() == [4, 5, 3, 1, 2, 0]


def test_real_numbers_are_the_known_ones_up_to_rounding():
    drawn = [draws.uniform(7, "e", [5], (3,)), draws.normal(7, "e", [5], (3,))]
    known = [[[0.28615797, 0.46996331, 0.53698319]], [[0.14577554, 0.82781047, -1.32965076]]]
    torch.testing.assert_close(torch.stack(drawn), torch.tensor(known), rtol=0, atol=1e-6)


def test_initial_weights_are_the_known_ones_up_to_rounding():
    """torch makes normals of its words by other instructions on other processors."""
    config = load_config("dcgan", ["discriminator.width=0.05"]).discriminator
    first = next(build_discriminator(config, (1, 8, 8), World.single(), seed=7).parameters())
    known = torch.tensor([0.2162615, -0.0004897, -0.2134962])
    torch.testing.assert_close(first.detach().flatten()[:3], known, rtol=0, atol=1e-6)
