"""Precision, recall, density and coverage are their definitions, ties and duplicates included."""

import numpy as np
import pytest

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.judge.metrics import distances
from spider.judge.metrics.prdc import NV_PR, PRDC, Manifolds, Neighbourhood, prdc

WORLD = World.single()


def features(seed: int, count: int, dim: int = 6, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((count, dim)) + shift).astype(np.float32)


def loops(fake: np.ndarray, real: np.ndarray, rule: Neighbourhood) -> Manifolds:
    """The definitions, one pair at a time."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a.astype(np.float64) - b.astype(np.float64)) ** 2).sum()))

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[rule.k - 1]

    def inside(x: np.ndarray, centre: np.ndarray, r: float) -> bool:
        return distance(x, centre) < r if rule.strict else distance(x, centre) <= r

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, j) for j in range(len(fake))]
    in_real = np.array([[inside(y, x, r) for x, r in zip(real, real_radii, strict=True)] for y in fake])
    in_fake = np.array([[inside(x, y, r) for y, r in zip(fake, fake_radii, strict=True)] for x in real])
    return Manifolds(
        precision=in_real.any(axis=1).mean(),
        recall=in_fake.any(axis=1).mean(),
        density=in_real.sum() / (rule.k * len(fake)),
        coverage=in_real.any(axis=0).mean(),
        reference_repeated=np.mean([radius == 0 for radius in real_radii]),
        samples_repeated=np.mean([radius == 0 for radius in fake_radii]),
    )


@pytest.mark.parametrize("rule", [NV_PR, PRDC, Neighbourhood("surface", 2, strict=False)], ids=lambda rule: rule.name)
def test_blocks_equal_naive_loops(rule: Neighbourhood, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distances, "ROWS", 16)
    real, fake = features(0, 45), features(1, 38, scale=0.7, shift=0.2)
    fake[:8] = real[3:11]  # copies put samples exactly on the surfaces of balls
    real[20] = real[21]
    fake[30] = fake[31] = fake[32]
    assert prdc(fake, real, [rule], WORLD) == [loops(fake, real, rule)]


def test_each_pair_of_blocks_is_multiplied_once(monkeypatch: pytest.MonkeyPatch):
    """Distances within a set are symmetric, and all four numbers under all rules come of one pass across."""
    monkeypatch.setattr(distances, "ROWS", 16)
    products = []
    multiply = distances.times_transposed
    monkeypatch.setattr(distances, "times_transposed", lambda x, y: products.append(1) or multiply(x, y))
    prdc(features(0, 5 * 16), features(1, 3 * 16), [NV_PR, PRDC], WORLD)
    assert len(products) == (5 * 6) // 2 + (3 * 4) // 2 + 5 * 3


def test_rules_share_distances_and_do_not_mix():
    real, fake = features(2, 60), features(3, 50, scale=0.8)
    assert prdc(fake, real, [PRDC, NV_PR], WORLD) == [prdc(fake, real, [rule], WORLD)[0] for rule in (PRDC, NV_PR)]


def test_a_collapsed_generator_is_precise_and_recalls_little():
    real = features(4, 400)
    collapsed = real[:1] + features(5, 300, scale=0.05)
    (numbers,) = prdc(collapsed, real, [NV_PR], WORLD)
    assert numbers.precision > 0.95
    assert numbers.recall < 0.05
    assert numbers.coverage < 0.1


def test_a_scattered_generator_recalls_and_is_not_precise():
    (numbers,) = prdc(features(6, 400, scale=4.0), features(7, 300), [NV_PR], WORLD)
    assert numbers.recall > 0.9
    assert numbers.precision < 0.5


def test_density_can_exceed_one():
    real = features(8, 200)
    (numbers,) = prdc(features(9, 200, scale=0.2), real, [PRDC], WORLD)
    assert numbers.density > 1
    assert numbers.coverage <= 1


def test_copies_in_any_order_are_inside_and_ties_are_exact(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distances, "ROWS", 64)
    real = features(10, 257, dim=200, shift=3)  # the last block is one row, whose products round differently
    copies = np.random.default_rng(11).permutation(real)
    at_most, less = prdc(copies, real, [NV_PR, PRDC], WORLD)
    # A ball holds the copy of its centre and those of its k neighbours, the last of them on the surface.
    assert at_most == Manifolds(precision=1, recall=1, density=4 / 3, coverage=1)
    assert less == Manifolds(precision=1, recall=1, density=5 / 5, coverage=1)


def test_constant_images_have_numbers():
    constant = np.full((20, 6), 0.3, np.float32)
    at_most, less = prdc(constant, constant, [NV_PR, PRDC], WORLD)
    repeated = {"reference_repeated": 1.0, "samples_repeated": 1.0}
    assert at_most == Manifolds(precision=1, recall=1, density=20 / 3, coverage=1, **repeated)
    # Balls of radius 0 have no inside.
    assert less == Manifolds(precision=0, recall=0, density=0, coverage=0, **repeated)


def test_too_few_images_for_k_are_refused():
    with pytest.raises(SpiderUsageError, match="5 nearest neighbours"):
        prdc(features(0, 5), features(1, 50), [PRDC], WORLD)
