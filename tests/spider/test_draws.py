"""Addressed draws: known answers, laws, and independence of who asks, when and how.

A seed means the same with every version of numpy and torch: what is drawn is compared across machines by its seed.
Change no known answer for the sake of a new version without saying in docs/architecture.md what no longer compares.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from cluster.world import World
from shards.order import mirrored, order, subset_rank
from spider import draws
from spider.config.load import load_config
from spider.gan.networks.build import build_discriminator
from spider.philox import philox, words


def raw(*four):
    return four


# Random123's known answers for philox4x32, ten rounds: counter, key, words
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, answer):
    found = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in found) == answer


def test_words_of_a_sample_are_those_of_its_counters():
    samples = torch.tensor([0, 7, 5_000_000_000])
    found = words((3, 4), samples, 10, raw, torch.int64)
    for row, sample in zip(found, samples.tolist(), strict=True):
        for j in range(10):
            counter = (j // 4, 0, sample % 2**32, sample // 2**32)
            assert row[j] == philox(tuple(torch.tensor([word]) for word in counter), (3, 4))[j % 4]


def test_words_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    whole = draws.normal(1, "chunks", range(9), (50,))
    monkeypatch.setattr("spider.philox._CHUNK", 7)
    assert torch.equal(draws.normal(1, "chunks", range(9), (50,)), whole)


DRAWS = {
    "normal": lambda indices, shape: draws.normal(3, "law", indices, shape),
    "uniform": lambda indices, shape: draws.uniform(3, "law", indices, shape),
    "integers": lambda indices, shape: draws.integers(3, "law", indices, shape, 10),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_sample_draws_the_same_whoever_asks_for_it(draw):
    """At any world size, in any micro-batch, in any order, and in a longer shape."""
    whole = draw(range(12), (2, 5))
    assert torch.equal(draw(range(1, 12, 4), (2, 5)), whole[1::4])
    assert torch.equal(draw([11, 3, 3], (2, 5)), whole[[11, 3, 3]])
    assert torch.equal(draw(range(12), (7,)), whole.flatten(1)[:, :7])
    assert draw(range(12), ()).shape == (12,)
    assert draw([], (3,)).shape == (0, 3)
    assert torch.equal(draw(range(12), (2, 5)), whole)


def test_streams_seeds_and_samples_are_independent():
    columns = [draws.normal(seed, stream, range(500), (4,)) for seed, stream in ((0, "a"), (0, "b"), (1, "a"))]
    correlation = torch.corrcoef(torch.cat(columns, dim=1).T) - torch.eye(12)
    assert correlation.abs().max() < 0.2  # 4.5 standard errors
    assert draws.normal(0, "a", range(500), (4,)).unique(dim=0).shape[0] == 500


def test_normals_are_normal():
    values = draws.normal(1, "law", range(2000), (51,)).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    # The two numbers of one Box-Muller pair are independent
    assert abs(np.corrcoef(values[:, 0] ** 2, values[:, 1] ** 2)[0, 1]) < 0.1


def test_uniform_numbers_are_uniform_and_below_one():
    values = draws.uniform(1, "law", range(2000), (50,))
    assert stats.kstest(values.numpy().ravel(), "uniform").pvalue > 1e-3
    assert values.min() >= 0
    assert values.max() < 1
    assert torch.equal(values * 2**24, (values * 2**24).round())


@pytest.mark.parametrize("stop", [1, 7, 2**31])
def test_integers_are_uniform_below_stop(stop):
    values = draws.integers(1, "law", range(7000), (1,), stop)
    assert values.min() >= 0
    assert values.max() < stop
    if stop == 7:
        assert stats.chisquare(values.flatten().bincount().numpy()).pvalue > 1e-3


def test_normals_at_the_ends_of_a_word_are_finite(monkeypatch):
    ends = torch.tensor([0]), torch.tensor([2**32 - 1]), torch.tensor([2**32 - 1]), torch.tensor([0])
    monkeypatch.setattr("spider.philox.philox", lambda counter, key: ends)
    drawn = draws.normal(0, "ends", [0], (4,))
    assert drawn.isfinite().all()
    assert 6.6 < drawn.abs().max() < 6.7


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
    known = [[[0.06842059, 0.46574336, 0.18660694]], [[-2.26262307, 0.49467093, -1.71919680]]]
    torch.testing.assert_close(torch.stack(drawn), torch.tensor(known), rtol=0, atol=1e-6)


def test_initial_weights_are_the_known_ones_up_to_rounding():
    """torch makes normals of its words by other instructions on other processors."""
    config = load_config("dcgan", ["discriminator.width=0.05"]).discriminator
    first = next(build_discriminator(config, (1, 8, 8), World.single(), seed=7).parameters())
    known = torch.tensor([0.2162615, -0.0004897, -0.2134962])
    torch.testing.assert_close(first.detach().flatten()[:3], known, rtol=0, atol=1e-6)
