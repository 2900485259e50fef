"""Objectives against their formulas, and penalties against gradients known in closed form."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from spider.draws import Address
from spider.gan.objectives.build import build_objective
from spider.gan.objectives.config import HingeConfig, ObjectiveConfig, ObjectiveKind
from spider.gan.objectives.least_squares import LeastSquares, SoftplusLeastSquares
from spider.gan.objectives.penalties import slope_excess, squared_gradient
from spider.gan.outputs import DOut

CPU = torch.device("cpu")
KINDS = get_args(ObjectiveKind)
DRAWS = Address(0, "d_main", range(7), CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_more_real_costs_less(kind):
    """Raising a logit helps D on real images, hurts it on generated ones, and helps G, whatever the objective."""
    objective = build_objective(ObjectiveConfig(kind=kind), nn.Identity(), CPU)
    real, fake = (torch.linspace(*ends, 7, dtype=torch.float64, requires_grad=True) for ends in ((0.1, 0.9), (0.8, 0)))
    outputs = DOut(real.unsqueeze(1)), DOut(fake.unsqueeze(1))
    d_loss = sum(values.sum() for values in objective.discriminator(*outputs, DRAWS).terms.values())
    g_loss = objective.generator(outputs[1], outputs[0], DRAWS).terms["g"].sum()
    for loss, logits, sign in ((d_loss, real, -1), (d_loss, fake, 1), (g_loss, fake, -1)):
        (slope,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert bool((sign * slope >= 0).all())
        assert bool((sign * slope > 0).any())


def test_a_relativistic_objective_knows_no_absolute_scale():
    """Nothing that it says changes when a constant is added to D. Its loss is the logistic one of the difference."""
    objective = build_objective(ObjectiveConfig(kind="relativistic"), nn.Identity(), CPU)
    real, fake = torch.randn(2, 6, 3, dtype=torch.float64)
    losses = objective.discriminator(DOut(real), DOut(fake), DRAWS).terms
    torch.testing.assert_close(losses, {"d": -torch.sigmoid(real - fake).log()})
    torch.testing.assert_close(objective.discriminator(DOut(real + 7), DOut(fake + 7), DRAWS).terms, losses)
    g_loss = objective.generator(DOut(fake), DOut(real), DRAWS).terms["g"]
    torch.testing.assert_close(g_loss, -torch.sigmoid(fake - real).log())
    torch.testing.assert_close(objective.generator(DOut(fake + 7), DOut(real + 7), DRAWS).terms["g"], g_loss)
    assert torch.equal(objective.score(DOut(fake + 7)).argsort(0), objective.score(DOut(fake)).argsort(0))


@pytest.mark.parametrize("kind", ["wasserstein", "relativistic"])
def test_a_constant_added_to_d_makes_no_image_more_real(kind):
    """So the mean sign of D, by which p is steered, cannot drift with that constant."""
    objective = build_objective(ObjectiveConfig(kind=kind), nn.Identity(), CPU)
    real, fake = torch.randn(2, 6, 3, dtype=torch.float64)
    found = [torch.stack(objective.realness(DOut(real + c), DOut(fake + c))) for c in (0, 7)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(found[0][0], -found[0][1])


@pytest.mark.parametrize("kind", [*KINDS, "hinge"])
def test_an_image_of_which_d_is_unsure_is_neither_real_nor_generated(kind):
    """Where D pays as much for it under either name, or in pairs for either order."""
    objective = build_objective(HingeConfig() if kind == "hinge" else ObjectiveConfig(kind=kind), nn.Identity(), CPU)
    unsure = torch.tensor([[0.5 if kind == "least_squares" else 0.0]])
    terms = objective.discriminator(DOut(unsure), DOut(unsure), DRAWS).terms
    assert kind == "relativistic" or torch.equal(terms["d_real"], terms["d_fake"])
    assert [float(each) for each in objective.realness(DOut(unsure), DOut(unsure))] == [0, 0]
    signs = [float(each.sign()) for each in objective.realness(DOut(unsure + 0.2), DOut(unsure - 0.2))]
    assert signs == [1, -1]


def test_logistic_objectives_are_the_papers_logarithms():
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)
    p = torch.sigmoid(x)
    saturating, usual = (
        build_objective(ObjectiveConfig(kind=k), nn.Identity(), CPU) for k in ("saturating", "non_saturating")
    )
    for objective in (saturating, usual):
        torch.testing.assert_close(objective.d_real(x), -p.log())
        torch.testing.assert_close(objective.d_fake(x), -(1 - p).log())
    torch.testing.assert_close(saturating.g_fake(x), (1 - p).log())
    torch.testing.assert_close(usual.g_fake(x), -p.log())


def test_hinge_stops_at_its_margin():
    hinge = build_objective(HingeConfig(), nn.Identity(), CPU)
    x = torch.tensor([-2.0, 0.0, 2.0])
    assert hinge.d_real(x).tolist() == [3.0, 1.0, 0.0]
    assert hinge.d_fake(x).tolist() == [0.0, 1.0, 3.0]


def test_least_squares_is_zero_at_its_labels():
    squares = build_objective(ObjectiveConfig(kind="least_squares"), nn.Identity(), CPU)
    assert squares.d_real(torch.tensor(1.0)) == squares.d_fake(torch.tensor(0.0)) == 0
    assert squares.d_real(torch.tensor(3.0)) == 2.0
    middle = torch.tensor(0.5)
    for each in (LeastSquares(), SoftplusLeastSquares()):
        assert each.d_real(middle) == each.d_fake(middle)
        assert each.realness(DOut(middle), DOut(middle)) == (0, 0)


def test_penalties_of_a_quadratic_discriminator():
    """D(x) = |x|^2 a / 2 has gradient a x: R1 is a^2 |x|^2, and its derivative by a is 2 a |x|^2."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    size = x.square().sum((1, 2, 3))
    r1 = squared_gradient(lambda images: a * images.square().sum((1, 2, 3)).unsqueeze(1) / 2, x)
    torch.testing.assert_close(r1, a.detach() ** 2 * size)
    (slope,) = torch.autograd.grad(r1.sum(), a)
    torch.testing.assert_close(slope, 2 * a.detach() * size.sum())

    y, mix = torch.randn_like(x), torch.rand(5, dtype=torch.float64)
    between = (y + mix.view(-1, 1, 1, 1) * (x - y)).square().sum((1, 2, 3)).sqrt()
    gp = slope_excess(lambda images: a * images.square().sum((1, 2, 3)).unsqueeze(1) / 2, x, y, mix)
    torch.testing.assert_close(gp, (a.detach() * between - 1).square())


def test_a_penalty_without_history_is_an_error_and_not_a_zero():
    with pytest.raises(RuntimeError, match="double backward was dropped"):
        squared_gradient(lambda images: (images * 2).sum((1, 2, 3)).unsqueeze(1), torch.randn(2, 1, 3, 3))
