"""Top-k: which samples, how many, the same on every rank; and the controller of p."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from cluster.world import World
from spider.draws import Address
from spider.gan.loss import Term
from spider.gan.objectives.build import build_objective
from spider.gan.objectives.config import ObjectiveConfig, ObjectiveKind
from spider.gan.outputs import DOut
from spider.gan.overfit.config import OverfitConfig
from spider.gan.overfit.controller import OverfitController
from spider.gan.selection.config import SelectionConfig
from spider.gan.selection.select import Selection

CPU = torch.device("cpu")
SINGLE = World.single()
DRAWS = Address(0, "g_main", range(8), SINGLE.device)


def selection(batch=8, **settings):
    return Selection(SelectionConfig(**settings), batch, 0, OverfitController(OverfitConfig(), batch))


@pytest.mark.parametrize("kind", get_args(ObjectiveKind))
@pytest.mark.parametrize("pick", ["best", "worst"])
def test_topk_takes_the_most_real(kind, pick):
    """The gradient is that of topk(k).mean() over logits, most real first, for every objective."""
    objective = build_objective(ObjectiveConfig(kind=kind), nn.Identity(), CPU)
    logits = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    real = DOut(torch.zeros_like(logits))
    score = objective.score(DOut(logits)).detach().mean(1)
    chosen = selection(kind="fixed", k=3, pick=pick).pick(score, 0, SINGLE)
    loss = Term("g", objective.generator(DOut(logits), real, DRAWS).terms["g"]).share(chosen.total, chosen.weights)
    (mine,) = torch.autograd.grad(loss, logits)
    top = logits.topk(3, dim=0, largest=pick == "best").values
    (expected,) = torch.autograd.grad(
        objective.generator(DOut(top), DOut(real.logits[:3]), DRAWS).terms["g"].mean(), logits
    )
    torch.testing.assert_close(mine, expected)


def test_ties_go_to_the_lower_slot():
    assert selection(kind="fixed", k=2).pick(torch.zeros(8), 0, SINGLE).weights.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_norm_batch_divides_by_the_batch():
    assert selection(kind="fixed", k=2, norm="batch").pick(torch.zeros(8), 0, SINGLE).total == 8


def weights_of_rank(world, scores, settings):
    """On a rank: its weights, total and k."""
    mine = torch.tensor(scores)[world.rank :: world.size]
    chosen = selection(len(scores), **settings).pick(mine, 0, world)
    return chosen.weights.tolist(), chosen.total, chosen.k


@pytest.mark.parametrize("size", [2, 4])
def test_global_selection_is_the_same_on_any_number_of_ranks(ranks, size):
    """Also when a rank has none of the chosen: here the best three all belong to rank 0."""
    scores = [9.0, 1.0, 1.0, 1.0, 8.0, 0.0, 0.0, 0.0, 7.0, 5.0, 1.0, 1.0]
    settings = {"kind": "fixed", "k": 3}
    whole = selection(12, **settings).pick(torch.tensor(scores), 0, SINGLE)
    found = ranks(size).run(weights_of_rank, scores, settings)
    for rank, (weights, total, k) in enumerate(found):
        assert weights == whole.weights[rank::size].tolist()
        assert (total, k) == (3.0, 3)
    assert sum(found[1][0]) == 0


def test_rank_scope_keeps_at_least_one_sample_per_rank(ranks):
    found = ranks(4).run(weights_of_rank, [float(s) for s in range(8)], {"kind": "fixed", "k": 3, "scope": "rank"})
    assert [(weights, total, k) for weights, total, k in found] == [([0.0, 1.0], 4.0, 4)] * 4


def test_linear_and_exponential_schedules_reach_their_floor():
    linear = selection(64, kind="linear", floor=0.75, over_kimg=10)
    assert [linear.k(images) for images in (0, 5_000, 10_000, 99_000)] == [64, 56, 48, 48]
    exponential = selection(100, kind="exponential", gamma=0.5, floor=0.3, every_kimg=1)
    assert [exponential.k(images) for images in (0, 1_000, 2_000)] == [100, 50, 30]


def mean_k(batch, p, steps, k_unit=1):
    walk = selection(batch, kind="adaptive", k_unit=k_unit)
    seen = []
    for step in range(steps):
        walk.walk(step, p)
        seen.append(walk.k(0))
        assert k_unit <= walk.k(0) <= batch
    return float(np.mean(seen[steps // 5 :]))


@pytest.mark.parametrize(
    ("batch", "p", "expected", "tolerance"),
    [
        (4, 0.1, 3.88, 0.05),
        (4, 0.5, 2.50, 0.15),
        (4, 0.9, 1.12, 0.05),
        (64, 0.4, 62.0, 0.5),
        (64, 0.6, 3.0, 0.7),
        (64, 0.9, 1.13, 0.05),
    ],
)
def test_adaptive_k_has_the_stationary_mean_of_its_walk(batch, p, expected, tolerance):
    """pi(k) ~ ((1 - p) / p)^(k - B) on 1 .. B."""
    k = np.arange(1, batch + 1)
    law = ((1 - p) / p) ** (k - batch)
    assert float((k * law).sum() / law.sum()) == pytest.approx(expected, abs=0.06)
    assert mean_k(batch, p, 20_000) == pytest.approx(expected, abs=tolerance)


def test_k_unit_walks_in_larger_strides():
    assert mean_k(64, 0.9, 3000, k_unit=16) == pytest.approx(16 * 1.12, abs=1.5)


def test_k_starts_at_the_batch_and_stays_within_bounds():
    walk = selection(8, kind="adaptive", k_min=3)
    assert walk.k(0) == 8
    for step in range(50):
        walk.walk(step, 1.0)
    assert walk.k(0) == 3
    for step in range(50):
        walk.walk(step, 0.0)
    assert walk.k(0) == 8


def test_p_moves_by_one_step_and_is_clamped():
    batch = 64
    controller = OverfitController(OverfitConfig(rise_kimg=500), batch)
    assert controller.move == pytest.approx(5.12e-4)  # StyleGAN2-ADA's step at batch 64
    assert [step for step in range(9) if controller.due(step)] == [3, 7]
    controller.observe(-64.0, 64.0)
    controller.adjust()
    assert controller.p == 0.0
    for _ in range(3):
        controller.observe(64.0, 64.0)
        controller.adjust()
    assert controller.p == pytest.approx(3 * 5.12e-4)
    controller.observe(0.6 * 64, 64.0)  # eta at the target: p stays
    controller.adjust()
    assert controller.p == pytest.approx(3 * 5.12e-4)
    for _ in range(3000):
        controller.observe(64.0, 64.0)
        controller.adjust()
    assert controller.p == 1.0


def test_without_an_upper_bound_p_winds_up():
    controller = OverfitController(OverfitConfig(p_max=None, rise_kimg=1), 500)
    for _ in range(3):
        controller.observe(1.0, 1.0)
        controller.adjust()
    assert controller.p == pytest.approx(6.0)


def test_eta_is_over_everything_since_the_last_adjustment():
    controller = OverfitController(OverfitConfig(), 4)
    controller.observe(4.0, 4.0)
    controller.observe(0.0, 4.0)
    controller.adjust()
    assert controller.eta == 0.5


def test_states_are_restored():
    walk, controller = selection(8, kind="adaptive"), OverfitController(OverfitConfig(), 8)
    for step in range(5):
        walk.walk(step, 0.7)
        controller.observe(8.0, 8.0)
    other, second = selection(8, kind="adaptive"), OverfitController(OverfitConfig(), 8)
    other.load(walk.state())
    second.load(controller.state())
    controller.adjust()
    second.adjust()
    assert (other.k(0), second.p, second.eta) == (walk.k(0), controller.p, controller.eta)
