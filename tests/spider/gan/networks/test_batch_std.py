"""The standard deviation over groups of the global batch."""

import pytest
import torch

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.gan.networks.batch_std import BatchStd

X = torch.randn(16, 6, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_groups_lie_apart_and_pixels_are_averaged():
    y = BatchStd(4, 2, World.single())(X)
    assert torch.equal(y[:, :6], X)
    for s in range(16):
        group = X[s % 4 :: 4]
        deviations = (group.var(0, unbiased=False) + 1e-8).sqrt()
        expected = torch.stack([deviations[:3].mean(), deviations[3:].mean()])
        torch.testing.assert_close(y[s, 6:], expected[:, None, None].expand(2, 3, 3))


def on_rank(world, group):
    """On a rank: what its slots become, and a second derivative, of the sum over ranks."""
    x = X[world.rank :: world.size].clone().requires_grad_()
    y = BatchStd(group, 2, world)(x)
    (slope,) = torch.autograd.grad(y[:, 6:].pow(3).sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad(slope.square().sum(), x)
    return y.detach(), slope.detach(), twice


@pytest.mark.parametrize(("size", "group"), [(2, 4), (4, 4), (4, 8), (4, 16)])
def test_groups_are_the_same_on_any_number_of_ranks(ranks, size, group):
    """Whole on each rank, or spread over ranks."""
    whole = on_rank(World.single(), group)
    for rank, found in enumerate(ranks(size).run(on_rank, group)):
        for there, expected in zip(found, whole, strict=True):
            torch.testing.assert_close(there, expected[rank::size], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 4])
def test_groups_are_the_same_in_micro_batches(parts):
    std = BatchStd(4, 1, World.single())
    for m in range(parts):
        torch.testing.assert_close(std(X[m::parts]), std(X)[m::parts])


def test_fewer_images_than_a_group_are_one():
    std = BatchStd(4, 1, World.single())
    torch.testing.assert_close(std(X[:3])[0, 6, 0, 0], (X[:3].var(0, unbiased=False) + 1e-8).sqrt().mean())
    with pytest.raises(SpiderUsageError, match="mbstd_group=4 does not divide 6 images"):
        std(X[:6])
